// Rows of channels: points, vertices and nodes hold their channels side by side, so that the threads of a
// warp read whole sectors of memory wherever the rows lie.
#pragma once
#include <type_traits>

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
  DENSECRF_HD void multiply(const Pack& other) {
    for (int i = 0; i < V; ++i) value[i] *= other.value[i];
  }
};
// The same values in another precision.
template <class S, class T, int V>
DENSECRF_HD Pack<S, V> converted(const Pack<T, V>& pack) {
  if constexpr (std::is_same_v<S, T>) {
    return pack;
  } else {
    Pack<S, V> out;
    for (int i = 0; i < V; ++i) out.value[i] = S(pack.value[i]);
    return out;
  }
}
template <int V, class T>
DENSECRF_HD Pack<T, V>* as_packs(T* rows) {
  return reinterpret_cast<Pack<T, V>*>(rows);
}
template <int V, class T>
DENSECRF_HD const Pack<T, V>* as_packs(const T* rows) {
  return reinterpret_cast<const Pack<T, V>*>(rows);
}

// Calls f(Width<V>) with the widest pack, of 16 bytes at most, that rows are made of.
template <int V>
struct Width {
  static constexpr int value = V;
};
template <class T, class F>
void for_pack(int stride, F f) {
  if constexpr (sizeof(T) == 2) {
    if (stride >= 8) return f(Width<8>());
  }
  if constexpr (sizeof(T) <= 4) {
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

// Steps from one value to the next along each axis of planes or rows; channels beyond `channels` are 0 when
// read and not written.
struct Layout {
  int channels;
  int64_t image, channel, point;
};
inline Layout planes_layout(int channels, int64_t points) { return {channels, channels * points, points, 1}; }
inline Layout rows_layout(int channels, int64_t points, int stride) {
  return {channels, points * stride, 1, stride};
}

// Calls f(channel, point) for a tile, threads side by side along the axis whose values lie side by side.
template <class F>
__device__ inline void for_tile(const Layout& layout, F f) {
  const int x = int(threadIdx.x);
#pragma unroll 1  // or registers spill
  for (int j = int(threadIdx.y); j < kTile; j += kTileRows) layout.point == 1 ? f(j, x) : f(x, j);
}

template <class T>
__global__ void __launch_bounds__(kTile* kTileRows)
    transpose(int images, int64_t points, Layout from, const T* in, Layout to, T* out) {
  __shared__ T tile[kTile][kTile + 1];
  const int64_t first_point = int64_t(blockIdx.x) * kTile;
  const int first_channel = int(blockIdx.y) * kTile;
  for (int64_t b = blockIdx.z; b < images; b += gridDim.z) {
    for_tile(from, [&](int c, int p) {
      const int64_t channel = first_channel + c, point = first_point + p;
      const bool there = channel < from.channels && point < points;
      tile[c][p] = there ? in[b * from.image + channel * from.channel + point * from.point] : T(0);
    });
    __syncthreads();
    for_tile(to, [&](int c, int p) {
      const int64_t channel = first_channel + c, point = first_point + p;
      if (channel < to.channels && point < points)
        out[b * to.image + channel * to.channel + point * to.point] = tile[c][p];
    });
    __syncthreads();
  }
}

template <class T>
void queue_transpose(Queue* queue, int images, int64_t points, const Layout& from, const T* in,
                     const Layout& to, T* out) {
  const int channels = from.channels > to.channels ? from.channels : to.channels;
  const dim3 blocks(blocks_for(points, kTile), blocks_for(channels, kTile), strided_blocks(images));
  queue->run(blocks, dim3(kTile, kTileRows), transpose<T>, images, points, from, in, to, out);
}
// Channels that only pad a row become 0.
template <class T>
void queue_load(Queue* queue, int images, int channels, int64_t points, const T* planes, T* rows) {
  const int stride = row_stride(channels);
  queue_transpose(queue, images, points, planes_layout(channels, points), planes,
                  rows_layout(stride, points, stride), rows);
}
template <class T>
void queue_store(Queue* queue, int images, int channels, int64_t points, const T* rows, T* planes) {
  queue_transpose(queue, images, points, rows_layout(channels, points, row_stride(channels)), rows,
                  planes_layout(channels, points), planes);
}

DENSECRF_END
