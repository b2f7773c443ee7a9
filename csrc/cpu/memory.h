// Memory for large arrays.
#pragma once
#include <cstddef>

namespace densecrf {

// Uninitialised memory aligned to cache lines, in huge pages where the system grants them: a first pass over
// 4 KiB pages costs as much as a mean-field iteration.  Null when there is none.  Freed with std::free.
void* allocate(size_t bytes);

}  // namespace densecrf
