// Sorting on the device: a translation unit of its own (sort.cu), since CUB takes longer to compile than all
// the rest.
#pragma once
#include "cuda/device.h"

namespace densecrf {
namespace cuda {

// Sorts pairs by their keys, which are not negative and below 2^bits; equal keys keep their order.
size_t sort_workspace(int64_t count, int bits);
Status sort_pairs(int64_t count, int bits, const int32_t* keys, int32_t* sorted_keys, const int32_t* values,
                  int32_t* sorted_values, void* workspace, size_t workspace_bytes, Stream stream);

}  // namespace cuda
}  // namespace densecrf
