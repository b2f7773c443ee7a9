// Lanes that share a row: a power of two of them, at most a warp, next to one another in a warp.  What they
// add up goes from register to register.
#pragma once
#include "cuda/rows.cuh"

DENSECRF_BEGIN

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;  // every lane must come, so that none of them may leave early

// Threads of a block: x goes over the lanes of a row, y over rows.
inline dim3 lane_threads(int packs) {
  unsigned lanes = 1;
  while (int(lanes) < packs && lanes < kWarp) lanes *= 2;
  return dim3(lanes, kThreads / lanes);
}
inline unsigned lane_blocks(int64_t rows, int packs) { return blocks_for(rows, lane_threads(packs).y); }

// The same bits in every lane.
template <class T>
__device__ T sum_of_lanes(T x) {
  for (int step = int(blockDim.x) / 2; step > 0; step /= 2) x += __shfl_xor_sync(kWholeWarp, x, step);
  return x;
}
template <class T>
__device__ T largest_of_lanes(T x) {
  for (int step = int(blockDim.x) / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, x, step);
    if (x < other) x = other;
  }
  return x;
}

template <class T, int V>
__device__ T dot(const Pack<T, V>& a, const Pack<T, V>& b) {
  T sum = 0;
  for (int i = 0; i < V; ++i) sum += a.value[i] * b.value[i];
  return sum;
}

DENSECRF_END
