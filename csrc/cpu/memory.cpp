#include "cpu/memory.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace densecrf {

void* allocate(size_t bytes) {
  constexpr size_t kHugePage = size_t(2) << 20;
  const bool large = bytes >= 2 * kHugePage;
  const size_t align = large ? kHugePage : 64;
  const size_t rounded = (bytes + align - 1) / align * align;
  if (rounded < bytes) return nullptr;
  void* data = std::aligned_alloc(align, rounded ? rounded : align);
#if defined(__linux__)
  if (data && large) madvise(data, rounded, MADV_HUGEPAGE);
#endif
  return data;
}

}  // namespace densecrf
