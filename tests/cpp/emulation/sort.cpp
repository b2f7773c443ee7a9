// What csrc/cuda/sort.cu does, on the CPU.
#include "cuda/sort.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace densecrf {
namespace cuda {

template <class K>
size_t sort_workspace(int64_t count, int) {
  return size_t(count);
}

namespace {

using Key64 = uint64_t;
using Key128 = unsigned __int128;

// The order of the keys by their lowest bits: those above take no part, as on the device.
template <class K>
std::vector<int32_t> order_of(int64_t count, int bits, const K* keys) {
  const K mask = bits < 8 * int(sizeof(K)) ? (K(1) << bits) - 1 : ~K(0);
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  return order;
}

bool takes(int64_t count, void* workspace, size_t bytes) {
  if (bytes < sort_workspace<Key64>(count, 0)) return false;
  std::fill_n(static_cast<char*>(workspace), bytes, '\xff');
  return true;
}

}  // namespace

template <class K>
Status sort_pairs(int64_t count, int bits, const K* keys, K* sorted_keys, const int32_t* values,
                  int32_t* sorted_values, void* workspace, size_t workspace_bytes, Stream) {
  if (!takes(count, workspace, workspace_bytes)) return Status::kOutOfMemory;
  const std::vector<int32_t> order = order_of(count, bits, keys);
  for (int64_t i = 0; i < count; ++i) {
    sorted_keys[i] = keys[order[i]];
    sorted_values[i] = values[order[i]];
  }
  return Status::kOk;
}

template <class K>
Status sort_keys(int64_t count, int bits, const K* keys, K* sorted_keys, void* workspace,
                 size_t workspace_bytes, Stream) {
  if (!takes(count, workspace, workspace_bytes)) return Status::kOutOfMemory;
  const std::vector<int32_t> order = order_of(count, bits, keys);
  for (int64_t i = 0; i < count; ++i) sorted_keys[i] = keys[order[i]];
  return Status::kOk;
}

Status add_up(int64_t count, int32_t* values, void* workspace, size_t workspace_bytes, Stream) {
  if (!takes(count, workspace, workspace_bytes)) return Status::kOutOfMemory;
  std::partial_sum(values, values + count, values);
  return Status::kOk;
}

template size_t sort_workspace<Key64>(int64_t, int);
template size_t sort_workspace<Key128>(int64_t, int);
template Status sort_pairs(int64_t, int, const Key64*, Key64*, const int32_t*, int32_t*, void*, size_t,
                           Stream);
template Status sort_pairs(int64_t, int, const Key128*, Key128*, const int32_t*, int32_t*, void*, size_t,
                           Stream);
template Status sort_keys(int64_t, int, const Key64*, Key64*, void*, size_t, Stream);
template Status sort_keys(int64_t, int, const Key128*, Key128*, void*, size_t, Stream);

}  // namespace cuda
}  // namespace densecrf
