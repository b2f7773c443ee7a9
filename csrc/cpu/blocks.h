// Points are located on the lattice in blocks of so many, lane by lane.
#pragma once
#include "cpu/transpose.h"

DENSECRF_BEGIN

// Above 16, or gcc unrolls the loops over lanes whole before it could vectorise them (build 1.25x slower).
constexpr int kLanes = 32;

// The first point of a block again up to a full one.
template <class T>
inline void fill_block(int dims, int count, T* block) {
  for (int j = 0; j < dims; ++j) {
    for (int n = count; n < kLanes; ++n) block[j * kLanes + n] = block[j * kLanes];
  }
}

// block[j, n]: feature j of point n, for n < count; of the first of them again up to a full block.
template <class T>
inline void load_block(const T* features, int dims, int count, T* block) {
  transpose(count, dims, features, dims, block, kLanes, AsIs());
  fill_block(dims, count, block);
}

DENSECRF_END
