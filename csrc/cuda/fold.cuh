// Sums and the like over the rows of a matrix, column by column, always in the same order.
//
// What is folded is a class with
//   Value                            trivial
//   Value none() const               what changes nothing
//   Value read(row, column) const
//   Value both(Value, Value) const   of rows in their order
//   void keep(column, Value) const   takes the result
#pragma once
#include "cuda/rows.cuh"

DENSECRF_BEGIN

constexpr int kFoldBlocks = 512;  // a few for each multiprocessor

// The fold over the threads of a column; known to the thread with y = 0.
template <class Fold>
__device__ typename Fold::Value fold_threads(const Fold& fold, typename Fold::Value value) {
  __shared__ typename Fold::Value shared[kThreads];
  const unsigned x = threadIdx.x, y = threadIdx.y, row = blockDim.x;
  shared[y * row + x] = value;
  __syncthreads();
  for (unsigned count = blockDim.y; count > 1;) {
    const unsigned half = (count + 1) / 2;
    if (y + half < count) shared[y * row + x] = fold.both(shared[y * row + x], shared[(y + half) * row + x]);
    __syncthreads();
    count = half;
  }
  return shared[x];
}

template <class Fold>
__global__ void __launch_bounds__(kThreads)
    fold_rows(Fold fold, int64_t rows, int columns, typename Fold::Value* partials) {
  typename Fold::Value value = fold.none();
  for (int64_t row = row_of_thread(); row < rows; row += int64_t(gridDim.x) * blockDim.y)
    value = fold.both(value, fold.read(row, int(threadIdx.x)));
  value = fold_threads(fold, value);
  if (threadIdx.y == 0) partials[int64_t(blockIdx.x) * columns + threadIdx.x] = value;
}

template <class Fold>
__global__ void __launch_bounds__(kThreads)
    fold_partials(Fold fold, int blocks, int columns, const typename Fold::Value* partials) {
  typename Fold::Value value = fold.none();
  for (int block = int(threadIdx.y); block < blocks; block += int(blockDim.y))
    value = fold.both(value, partials[block * columns + int(threadIdx.x)]);
  value = fold_threads(fold, value);
  if (threadIdx.y == 0) fold.keep(int(threadIdx.x), value);
}

// Space for `partials`.
inline int64_t fold_values(int columns) { return int64_t(kFoldBlocks) * columns; }

// columns <= kThreads
template <class Fold>
void queue_fold(Queue* queue, const Fold& fold, int64_t rows, int columns, typename Fold::Value* partials) {
  const dim3 threads = row_threads(columns);
  const int64_t wanted = row_blocks(rows, columns);
  const int blocks = wanted < kFoldBlocks ? int(wanted) : kFoldBlocks;
  queue->run(blocks, threads, fold_rows<Fold>, fold, rows, columns, partials);
  queue->run(1, threads, fold_partials<Fold>, fold, blocks, columns, partials);
}

DENSECRF_END
