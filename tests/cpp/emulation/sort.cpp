// What csrc/cuda/sort.cu does, on the CPU.
#include "cuda/sort.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace densecrf {
namespace cuda {

size_t sort_workspace(int64_t count, int) { return size_t(count); }

Status sort_pairs(int64_t count, int bits, const int32_t* keys, int32_t* sorted_keys, const int32_t* values,
                  int32_t* sorted_values, void* workspace, size_t workspace_bytes, Stream) {
  if (workspace_bytes < sort_workspace(count, bits)) return Status::kOutOfMemory;
  std::fill_n(static_cast<char*>(workspace), workspace_bytes, '\xff');
  const int64_t mask = (int64_t(1) << bits) - 1;  // the bits above take no part, as on the device
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  for (int64_t i = 0; i < count; ++i) {
    sorted_keys[i] = keys[order[i]];
    sorted_values[i] = values[order[i]];
  }
  return Status::kOk;
}

}  // namespace cuda
}  // namespace densecrf
