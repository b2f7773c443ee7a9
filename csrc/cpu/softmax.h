// Softmax over the rows of a chunk of points, in place.
#pragma once
#include "cpu/exp.h"
#include "cpu/rows.h"

DENSECRF_BEGIN

template <class T, int W>
inline T largest(const Row<T, W>& row) {
  T m[W];
  row.store(m);
  for (int half = W / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) m[i] = m[i] < m[i + half] ? m[i + half] : m[i];
  }
  return m[0];
}
template <class T, int W>
inline T total(const Row<T, W>& row) {
  T m[W];
  row.store(m);
  for (int half = W / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) m[i] += m[i + half];
  }
  return m[0];
}

// stride is a multiple of W.
template <class T, int W>
[[gnu::noinline]] void softmax_rows(int count, int stride, T* rows) {
  const T* end = rows + int64_t(count) * stride;
  for (T* row = rows; row < end; row += stride) {
    auto most = Row<T, W>::load(row);
    for (int c = W; c < stride; c += W) most.take_larger(Row<T, W>::load(row + c));
    const T down = -largest<T, W>(most);
    for (int c = 0; c < stride; c += W) {
      auto x = Row<T, W>::load(row + c);
      x.add(down);
      x.store(row + c);
    }
  }
  exp_array(rows, int64_t(count) * stride);
  for (T* row = rows; row < end; row += stride) {
    auto sum = Row<T, W>::load(row);
    for (int c = W; c < stride; c += W) sum.add_scaled(T(1), row + c);
    const T inverse = T(1) / total<T, W>(sum);
    for (int c = 0; c < stride; c += W) {
      auto x = Row<T, W>::load(row + c);
      x.scale(inverse);
      x.store(row + c);
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
