// Memory for large arrays.
#pragma once
#include <cstddef>

// A sanitizer watches malloc: pages of the system's and memory that is handed out again would escape it.
#if defined(__SANITIZE_ADDRESS__)
#define DENSECRF_WATCHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DENSECRF_WATCHED 1
#endif
#endif

namespace densecrf {

// Uninitialised memory aligned to cache lines, in huge pages where the system grants them: a first pass over
// 4 KiB pages costs as much as a mean-field iteration.  Null when there is none.
void* allocate(size_t bytes);
// Gives back what allocate(bytes) gave, large blocks to the system at once; null is fine.
void release(void* data, size_t bytes);

}  // namespace densecrf
