#include "cpu/memory.h"

#include <cstdint>
#include <cstdlib>

#if defined(__linux__) && !defined(DENSECRF_WATCHED)
#define DENSECRF_MAPS_PAGES
#include <sys/mman.h>
#endif

namespace densecrf {

namespace {

#if defined(DENSECRF_MAPS_PAGES)
constexpr size_t kHugePage = size_t(2) << 20;

bool large(size_t bytes) { return bytes >= kHugePage; }
size_t in_huge_pages(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

// Not by way of malloc, which holds on to what it once gave out: 6 of 144 MB after a lattice was built.
void* map(size_t bytes) {
  const size_t size = in_huge_pages(bytes), all = size + kHugePage;
  if (size < bytes || all < size) return nullptr;
  void* found = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(found);
  const size_t before =
      (kHugePage - (reinterpret_cast<uintptr_t>(begin) & (kHugePage - 1))) & (kHugePage - 1);
  if (before > 0) munmap(begin, before);
  munmap(begin + before + size, kHugePage - before);
  madvise(begin + before, size, MADV_HUGEPAGE);
  return begin + before;
}
#endif

}  // namespace

void* allocate(size_t bytes) {
#if defined(DENSECRF_MAPS_PAGES)
  if (large(bytes)) return map(bytes);
#endif
  const size_t lines = bytes / 64 + 1;
  return lines <= SIZE_MAX / 64 ? std::aligned_alloc(64, lines * 64) : nullptr;
}

void release(void* data, size_t bytes) {
#if defined(DENSECRF_MAPS_PAGES)
  if (data && large(bytes)) {
    munmap(data, in_huge_pages(bytes));
    return;
  }
#endif
  (void)bytes;
  std::free(data);
}

}  // namespace densecrf
