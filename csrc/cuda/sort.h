// Sorting and counting on the device: a translation unit of its own (sort.cu), since CUB takes longer to
// compile than all the rest.
#pragma once
#include "cuda/device.h"

namespace densecrf {
namespace cuda {

// Bytes that any of the calls below, with up to so many keys K, wants as workspace.
template <class K>
size_t sort_workspace(int64_t count, int bits);

// Sorts pairs by their keys, which are below 2^bits; equal keys keep their order.  K: uint64_t or unsigned
// __int128.
template <class K>
Status sort_pairs(int64_t count, int bits, const K* keys, K* sorted_keys, const int32_t* values,
                  int32_t* sorted_values, void* workspace, size_t workspace_bytes, Stream stream);
template <class K>
Status sort_keys(int64_t count, int bits, const K* keys, K* sorted_keys, void* workspace,
                 size_t workspace_bytes, Stream stream);

// values[i] = values[0] + ... + values[i]
Status add_up(int64_t count, int32_t* values, void* workspace, size_t workspace_bytes, Stream stream);

}  // namespace cuda
}  // namespace densecrf
