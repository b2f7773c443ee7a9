// Chunks of points between the caller's planes [C, N] and rows [count, stride].
#pragma once
#include "cpu/rows.h"

DENSECRF_BEGIN

// Points whose rows are worked on together: enough to hide latencies, few enough for the first-level cache.
constexpr int kChunk = 64;

// to[j, i] = factor * from[i, j] for a SIZE x SIZE tile; the compiler keeps it in registers.
template <class T, int SIZE>
inline void transpose_tile(const T* from, int64_t from_step, T* to, int64_t to_step, T factor) {
  T tile[SIZE][SIZE];
  for (int i = 0; i < SIZE; ++i) {
    for (int j = 0; j < SIZE; ++j) tile[i][j] = from[i * from_step + j];
  }
  for (int j = 0; j < SIZE; ++j) {
    for (int i = 0; i < SIZE; ++i) to[j * to_step + i] = factor * tile[i][j];
  }
}

// to[j, i] = factor * from[i, j], i < rows, j < columns.
template <class T>
inline void transpose(int rows, int columns, const T* from, int64_t from_step, T* to, int64_t to_step,
                      T factor) {
  constexpr int kTile = 4;
  int i = 0;
  for (; i + kTile <= rows; i += kTile) {
    int j = 0;
    for (; j + kTile <= columns; j += kTile)
      transpose_tile<T, kTile>(from + i * from_step + j, from_step, to + j * to_step + i, to_step, factor);
    for (; j < columns; ++j) {
      for (int k = i; k < i + kTile; ++k) to[j * to_step + k] = factor * from[k * from_step + j];
    }
  }
  for (; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) to[j * to_step + i] = factor * from[i * from_step + j];
  }
}

// rows[p, c] = factor * planes[c, first + p]; channels beyond C get 0.  Returns false when a value is not
// finite.
template <class T>
[[gnu::noinline]] inline bool load_points(const T* planes, int64_t points, int channels, int64_t first,
                                          int count, T factor, int stride, T* rows) {
  transpose(channels, count, planes + first, points, rows, int64_t(stride), factor);
  for (int p = 0; p < count; ++p) {
    for (int c = channels; c < stride; ++c) rows[int64_t(p) * stride + c] = 0;
  }
  constexpr int kLanes = 8;
  T bad[kLanes] = {};  // x - x is 0, or NaN where x is not finite
  const int64_t values = int64_t(count) * stride;
  int64_t i = 0;
  for (; i + kLanes <= values; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) bad[l] += rows[i + l] - rows[i + l];
  }
  for (; i < values; ++i) bad[0] += rows[i] - rows[i];
  bool finite = true;
  for (int l = 0; l < kLanes; ++l) finite = finite && bad[l] == 0;
  return finite;
}

template <class T>
[[gnu::noinline]] inline void store_points(const T* rows, int stride, int64_t points, int channels,
                                           int64_t first, int count, T* planes) {
  transpose(count, channels, rows, int64_t(stride), planes + first, points, T(1));
}

DENSECRF_END
