// Points are located on the lattice in blocks of so many, lane by lane.
#pragma once
#include <cstdint>

#include "core/macros.h"

DENSECRF_BEGIN

// Above 16, or gcc unrolls the loops over lanes whole before it could vectorise them (build 1.25x slower).
constexpr int kLanes = 32;

// The features of a block: of `count` points, and of the first of them again up to a full block, for which
// `padded` has room.
template <class T>
inline const T* block_of(const T* features, int dims, int count, T* padded) {
  if (count == kLanes) return features;
  for (int i = 0; i < kLanes * dims; ++i) padded[i] = features[i < count * dims ? i : i % dims];
  return padded;
}

DENSECRF_END
