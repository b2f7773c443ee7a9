// Chunks of points between the caller's planes [C, N] and rows [count, stride].
#pragma once
#include "cpu/rows.h"

DENSECRF_BEGIN

// Points whose rows are worked on together: enough to hide latencies, few enough for the first-level cache.
constexpr int kChunk = 64;

// rows[p, c] = factor * planes[c, first + p]; channels beyond C get `pad`.  Returns false when a value is not finite.
template <class T>
[[gnu::noinline]] inline bool load_points(const T* planes, int64_t points, int channels, int64_t first, int count, T factor, T pad, int stride, T* rows) {
  T bad = 0;  // x - x is 0, or NaN where x is not finite
  for (int c = 0; c < channels; ++c) {
    const T* plane = planes + c * points + first;
    for (int p = 0; p < count; ++p) {
      rows[int64_t(p) * stride + c] = factor * plane[p];
      bad += plane[p] - plane[p];
    }
  }
  for (int c = channels; c < stride; ++c) {
    for (int p = 0; p < count; ++p) rows[int64_t(p) * stride + c] = pad;
  }
  return bad == 0;
}

template <class T>
[[gnu::noinline]] inline void store_points(const T* rows, int stride, int64_t points, int channels, int64_t first, int count, T* planes) {
  for (int c = 0; c < channels; ++c) {
    T* plane = planes + c * points + first;
    for (int p = 0; p < count; ++p) plane[p] = rows[int64_t(p) * stride + c];
  }
}

DENSECRF_END
