// Memory for large arrays.
#pragma once
#include <cstddef>

namespace densecrf {

// Uninitialised memory aligned to cache lines, in huge pages where the system grants them: a first pass over
// 4 KiB pages costs as much as a mean-field iteration.  Null when there is none.
void* allocate(size_t bytes);
// Gives back what allocate(bytes) gave, large blocks to the system at once; null is fine.
void release(void* data, size_t bytes);

}  // namespace densecrf
