#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "cuda/sort.h"
#include "cuda/status.h"

namespace densecrf {
namespace cuda {

namespace {

using Key64 = uint64_t;
using Key128 = unsigned __int128;

template <class F>
size_t bytes_of(F call) {
  size_t bytes = 0;
  // Without a device this fails, and so will the call itself.
  return status_of(call(bytes)) == Status::kOk ? bytes : 0;
}

}  // namespace

template <class K>
size_t sort_workspace(int64_t count, int bits) {
  const size_t each[] = {bytes_of([&](size_t& bytes) {
                           return cub::DeviceRadixSort::SortPairs<K, int32_t>(
                               nullptr, bytes, nullptr, nullptr, nullptr, nullptr, count, 0, bits);
                         }),
                         bytes_of([&](size_t& bytes) {
                           return cub::DeviceRadixSort::SortKeys<K>(nullptr, bytes, nullptr, nullptr, count,
                                                                    0, bits);
                         }),
                         bytes_of([&](size_t& bytes) {
                           int32_t* values = nullptr;
                           return cub::DeviceScan::InclusiveSum(nullptr, bytes, values, values, count);
                         })};
  size_t most = 0;
  for (size_t bytes : each) most = most < bytes ? bytes : most;
  return most;
}

template <class K>
Status sort_pairs(int64_t count, int bits, const K* keys, K* sorted_keys, const int32_t* values,
                  int32_t* sorted_values, void* workspace, size_t workspace_bytes, Stream stream) {
  return status_of(cub::DeviceRadixSort::SortPairs(workspace, workspace_bytes, keys, sorted_keys, values,
                                                   sorted_values, count, 0, bits, stream));
}

template <class K>
Status sort_keys(int64_t count, int bits, const K* keys, K* sorted_keys, void* workspace,
                 size_t workspace_bytes, Stream stream) {
  return status_of(
      cub::DeviceRadixSort::SortKeys(workspace, workspace_bytes, keys, sorted_keys, count, 0, bits, stream));
}

Status add_up(int64_t count, int32_t* values, void* workspace, size_t workspace_bytes, Stream stream) {
  return status_of(cub::DeviceScan::InclusiveSum(workspace, workspace_bytes, values, values, count, stream));
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
