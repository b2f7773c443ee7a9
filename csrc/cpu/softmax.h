// Softmax over the rows of a chunk of points, in place.
#pragma once
#include "cpu/exp.h"
#include "cpu/rows.h"

DENSECRF_BEGIN

template <class T, int W>
inline T fold_max(const T* p) {
  T m[W];
  for (int i = 0; i < W; ++i) m[i] = p[i];
  for (int half = W / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) m[i] = m[i] < m[i + half] ? m[i + half] : m[i];
  }
  return m[0];
}
template <class T, int W>
inline T fold_sum(const T* p) {
  T m[W];
  for (int i = 0; i < W; ++i) m[i] = p[i];
  for (int half = W / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) m[i] += m[i + half];
  }
  return m[0];
}

// stride is a multiple of STEP.
template <class T, int STEP>
void softmax_rows(int count, int stride, T* rows) {
  for (int p = 0; p < count; ++p) {
    T* row = rows + int64_t(p) * stride;
    T most[STEP];
    for (int i = 0; i < STEP; ++i) most[i] = row[i];
    for (int c = STEP; c < stride; c += STEP) {
      for (int i = 0; i < STEP; ++i) most[i] = most[i] < row[c + i] ? row[c + i] : most[i];
    }
    const T m = fold_max<T, STEP>(most);
    for (int c = 0; c < stride; c += STEP) {
      for (int i = 0; i < STEP; ++i) row[c + i] -= m;
    }
  }
  exp_array(rows, int64_t(count) * stride);
  for (int p = 0; p < count; ++p) {
    T* row = rows + int64_t(p) * stride;
    T sum[STEP];
    for (int i = 0; i < STEP; ++i) sum[i] = row[i];
    for (int c = STEP; c < stride; c += STEP) {
      for (int i = 0; i < STEP; ++i) sum[i] += row[c + i];
    }
    const T inverse = T(1) / fold_sum<T, STEP>(sum);
    for (int c = 0; c < stride; c += STEP) {
      for (int i = 0; i < STEP; ++i) row[c + i] *= inverse;
    }
  }
}

template <class T>
inline void softmax(int count, int stride, T* rows) {
  if (stride % 8 == 0) return softmax_rows<T, 8>(count, stride, rows);
  if (stride % 4 == 0) return softmax_rows<T, 4>(count, stride, rows);
  if (stride % 2 == 0) return softmax_rows<T, 2>(count, stride, rows);
  softmax_rows<T, 1>(count, stride, rows);
}

DENSECRF_END
