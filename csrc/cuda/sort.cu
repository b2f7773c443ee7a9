#include <cub/device/device_radix_sort.cuh>

#include "cuda/sort.h"

namespace densecrf {
namespace cuda {

namespace {

cudaError_t sort(int64_t count, int bits, const int32_t* keys, int32_t* sorted_keys, const int32_t* values,
                 int32_t* sorted_values, void* workspace, size_t* bytes, Stream stream) {
  return cub::DeviceRadixSort::SortPairs(workspace, *bytes, keys, sorted_keys, values, sorted_values, count,
                                         0, bits, stream);
}

}  // namespace

size_t sort_workspace(int64_t count, int bits) {
  size_t bytes = 0;
  // Without a device this fails, and so will the sort.
  if (sort(count, bits, nullptr, nullptr, nullptr, nullptr, nullptr, &bytes, nullptr) != cudaSuccess)
    return 0;
  return bytes;
}

Status sort_pairs(int64_t count, int bits, const int32_t* keys, int32_t* sorted_keys, const int32_t* values,
                  int32_t* sorted_values, void* workspace, size_t workspace_bytes, Stream stream) {
  const cudaError_t error =
      sort(count, bits, keys, sorted_keys, values, sorted_values, workspace, &workspace_bytes, stream);
  return error == cudaSuccess ? Status::kOk : Status(int(Status::kDevice) + int(error));
}

}  // namespace cuda
}  // namespace densecrf
