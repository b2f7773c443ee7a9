// Sums over the points of products of their rows: by a fixed number of parts of the points, each a block's,
// and then over the parts in a fixed order.
#pragma once
#include "cuda/lanes.cuh"
#include "cuda/term.cuh"

DENSECRF_BEGIN

// Enough blocks for any device, few enough that their sums take little memory: 4 MB at most in float.
constexpr int kSumBlocks = 512;

// v q^T summed, [parts, L, stride], or its diagonal, [parts, stride].
struct SumShape {
  int tiles, parts;
  int64_t each;  // points of a part
  int lines;     // L or 1

  SumShape(const Rows& rows, bool matrix) : tiles(int(blocks_for(rows.labels, kTile))) {
    const int blocks = matrix ? tiles * tiles : tiles;
    const int64_t most = (rows.count() + kTile - 1) / kTile;
    parts = kSumBlocks > blocks ? kSumBlocks / blocks : 1;
    if (parts > most) parts = int(most);
    each = (rows.count() + int64_t(parts) * kTile - 1) / (int64_t(parts) * kTile) * kTile;
    lines = matrix ? rows.labels : 1;
  }
  int64_t values(const Rows& rows) const { return int64_t(parts) * lines * rows.stride; }
};

// Adds v[p, l] q[p, c], summed over a part of the points, to sums[part, l, c]: tiles of 32 x 32, each thread
// four of them.
template <class T>
__global__ void __launch_bounds__(kTile* kTileRows)
    sum_outer(int64_t points, int64_t each, int labels, int stride, const T* v, const T* q, T* sums) {
  __shared__ T v_tile[kTile][kTile], q_tile[kTile][kTile];
  constexpr int kLines = kTile / kTileRows;
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  const int l = int(blockIdx.y) * kTile, c = int(blockIdx.z) * kTile;
  const int64_t first = blockIdx.x * each, end = points - first < each ? points : first + each;
  T sum[kLines] = {};
  for (int64_t p = first; p < end; p += kTile) {
    for (int j = y; j < kTile; j += kTileRows) {
      const int64_t at = (p + j) * stride + x;
      v_tile[j][x] = p + j < end && l + x < stride ? v[at + l] : T(0);
      q_tile[j][x] = p + j < end && c + x < stride ? q[at + c] : T(0);
    }
    __syncthreads();
    for (int j = 0; j < kTile; ++j) {
      for (int i = 0; i < kLines; ++i) sum[i] += v_tile[j][y + i * kTileRows] * q_tile[j][x];
    }
    __syncthreads();
  }
  for (int i = 0; i < kLines; ++i) {
    const int line = l + y + i * kTileRows;
    if (line < labels && c + x < stride)
      sums[(int64_t(blockIdx.x) * labels + line) * stride + c + x] += sum[i];
  }
}

// Adds v[p, c] q[p, c], summed over a part of the points, to sums[part, c].
template <class T>
__global__ void __launch_bounds__(kTile* kTileRows)
    sum_products(int64_t points, int64_t each, int stride, const T* v, const T* q, T* sums) {
  __shared__ T of_rows[kTileRows][kTile];
  const int x = int(threadIdx.x), y = int(threadIdx.y), c = int(blockIdx.y) * kTile + x;
  const int64_t first = blockIdx.x * each, end = points - first < each ? points : first + each;
  T sum = 0;
  for (int64_t p = first + y; p < end && c < stride; p += kTileRows)
    sum += v[p * stride + c] * q[p * stride + c];
  of_rows[y][x] = sum;
  __syncthreads();
  if (y > 0 || c >= stride) return;
  for (int row = 1; row < kTileRows; ++row) sum += of_rows[row][x];
  sums[int64_t(blockIdx.x) * stride + c] += sum;
}

// out[i, j] = the sum of sums[i * line + j + k * step], k < terms, some lanes each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_up(int64_t count, int64_t columns, int64_t line, int64_t terms, int64_t step, const T* sums, T* out) {
  const int64_t i = row_of_thread();
  const T* from = sums + i / columns * line + i % columns;
  double sum = 0;
  for (int64_t k = threadIdx.x; i < count && k < terms; k += blockDim.x) sum += double(from[k * step]);
  sum = sum_of_lanes(sum);
  if (i < count && threadIdx.x == 0) out[i] = T(sum);
}

template <class T>
void queue_sums(Queue* queue, const Rows& rows, bool matrix, const T* v, const T* q, T* sums) {
  const SumShape shape(rows, matrix);
  const dim3 threads(kTile, kTileRows);
  if (matrix)
    queue->run(dim3(shape.parts, shape.tiles, shape.tiles), threads, sum_outer<T>, rows.count(), shape.each,
               rows.labels, rows.stride, v, q, sums);
  else
    queue->run(dim3(shape.parts, shape.tiles), threads, sum_products<T>, rows.count(), shape.each,
               rows.stride, v, q, sums);
}
// out = the sums over all points: [L, L] or [L].
template <class T>
void queue_add_up(Queue* queue, const Rows& rows, bool matrix, const T* sums, T* out) {
  const SumShape shape(rows, matrix);
  const int64_t count = int64_t(shape.lines) * rows.labels, part = int64_t(shape.lines) * rows.stride;
  queue->run(lane_blocks(count, shape.parts), lane_threads(shape.parts), add_up<T>, count, rows.labels,
             rows.stride, shape.parts, part, sums, out);
}
// The sum of the diagonal.
template <class T>
void queue_add_up_all(Queue* queue, const Rows& rows, const T* sums, T* out) {
  queue->run(1, kWarp, add_up<T>, 1, 1, 0, SumShape(rows, false).values(rows), 1, sums, out);
}

DENSECRF_END
