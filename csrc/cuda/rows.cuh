// Rows of channels: points, vertices and nodes hold their channels side by side, so that the threads of a
// warp read whole sectors of memory wherever the rows lie.
#pragma once
#include "core/macros.h"
#include "cuda/launch.cuh"

DENSECRF_BEGIN

// Values of a row: a power of two, or a multiple of 8, which in float is one sector of 32 bytes.
inline int row_stride(int channels) {
  int stride = 1;
  while (stride < channels && stride < 8) stride *= 2;
  return channels <= 8 ? stride : (channels + 7) / 8 * 8;
}

// V neighbouring channels, loaded and stored at once.
template <class T, int V>
struct alignas(V * sizeof(T)) Pack {
  T value[V];

  DENSECRF_HD void add(const Pack& other) {
    for (int i = 0; i < V; ++i) value[i] += other.value[i];
  }
  DENSECRF_HD void add_scaled(T factor, const Pack& other) {
    for (int i = 0; i < V; ++i) value[i] += factor * other.value[i];
  }
  DENSECRF_HD void scale(T factor) {
    for (int i = 0; i < V; ++i) value[i] *= factor;
  }
};

// Calls f(Width<V>) with the widest pack, of 16 bytes at most, that rows are made of.
template <int V>
struct Width {
  static constexpr int value = V;
};
template <class T, class F>
void for_pack(int stride, F f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (stride >= 4) return f(Width<4>());
  }
  if (stride >= 2) return f(Width<2>());
  f(Width<1>());
}

// Threads of a block: x goes over the packs of a row, y over rows.
constexpr int kThreads = 256;
inline dim3 row_threads(int packs) {
  const unsigned x = unsigned(packs < kThreads ? packs : kThreads);
  return dim3(x, kThreads / x);
}
inline unsigned row_blocks(int64_t rows, int packs) { return blocks_for(rows, row_threads(packs).y); }
__device__ inline int64_t row_of_thread() { return int64_t(blockIdx.x) * blockDim.y + threadIdx.y; }

// ---- between the caller's planes [B, C, n] and rows [B, n, stride]

constexpr int kTile = 32, kTileRows = 8;

inline dim3 tile_blocks(int images, int64_t points, int stride) {
  return dim3(blocks_for(points, kTile), blocks_for(stride, kTile), strided_blocks(images));
}

// Channels that only pad a row are 0.
template <class T>
__global__ void __launch_bounds__(kTile* kTileRows)
    load_rows(int images, int channels, int64_t points, int stride, const T* planes, T* rows) {
  __shared__ T tile[kTile][kTile + 1];
  const int64_t first_point = int64_t(blockIdx.x) * kTile;
  const int first_channel = int(blockIdx.y) * kTile;
  for (int64_t b = blockIdx.z; b < images; b += gridDim.z) {
    for (int j = int(threadIdx.y); j < kTile; j += kTileRows) {
      const int c = first_channel + j;
      const int64_t p = first_point + threadIdx.x;
      tile[j][threadIdx.x] = c < channels && p < points ? planes[(b * channels + c) * points + p] : T(0);
    }
    __syncthreads();
    for (int j = int(threadIdx.y); j < kTile; j += kTileRows) {
      const int c = first_channel + int(threadIdx.x);
      const int64_t p = first_point + j;
      if (c < stride && p < points) rows[(b * points + p) * stride + c] = tile[threadIdx.x][j];
    }
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kTile* kTileRows)
    store_rows(int images, int channels, int64_t points, int stride, const T* rows, T* planes) {
  __shared__ T tile[kTile][kTile + 1];
  const int64_t first_point = int64_t(blockIdx.x) * kTile;
  const int first_channel = int(blockIdx.y) * kTile;
  for (int64_t b = blockIdx.z; b < images; b += gridDim.z) {
    for (int j = int(threadIdx.y); j < kTile; j += kTileRows) {
      const int c = first_channel + int(threadIdx.x);
      const int64_t p = first_point + j;
      if (c < stride && p < points) tile[j][threadIdx.x] = rows[(b * points + p) * stride + c];
    }
    __syncthreads();
    for (int j = int(threadIdx.y); j < kTile; j += kTileRows) {
      const int c = first_channel + j;
      const int64_t p = first_point + threadIdx.x;
      if (c < channels && p < points) planes[(b * channels + c) * points + p] = tile[threadIdx.x][j];
    }
    __syncthreads();
  }
}

template <class T>
void queue_load(Queue* queue, int images, int channels, int64_t points, const T* planes, T* rows) {
  const int stride = row_stride(channels);
  queue->run(tile_blocks(images, points, stride), dim3(kTile, kTileRows), load_rows<T>, images, channels,
             points, stride, planes, rows);
}
template <class T>
void queue_store(Queue* queue, int images, int channels, int64_t points, const T* rows, T* planes) {
  const int stride = row_stride(channels);
  queue->run(tile_blocks(images, points, stride), dim3(kTile, kTileRows), store_rows<T>, images, channels,
             points, stride, rows, planes);
}

DENSECRF_END
