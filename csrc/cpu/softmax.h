// Softmax over the rows of a chunk of points, in place.
#pragma once
#include "cpu/exp.h"
#include "cpu/rows.h"

DENSECRF_BEGIN

// Largest value that exp_array takes without the row's largest being taken away first: e^80 sums over 10^3
// labels.
constexpr int kLargestExponent = 80;

// Whether no value is above kLargestExponent.  Four maxima in turns: one would wait for itself.
template <class T, int W>
inline bool all_small(int64_t n, const T* x) {
  constexpr int kTurns = 4;
  Row<T, W> most[kTurns];
  for (auto& row : most) row = Row<T, W>::load(x);
  int64_t i = W;
  for (; i + kTurns * W <= n; i += kTurns * W) {
    for (int t = 0; t < kTurns; ++t) most[t].take_larger(Row<T, W>::load(x + i + t * W));
  }
  for (; i < n; i += W) most[0].take_larger(Row<T, W>::load(x + i));
  for (int t = 1; t < kTurns; ++t) most[0].take_larger(most[t]);
  return largest<T, W>(most[0]) <= T(kLargestExponent);
}

template <class T, int W>
inline void take_largest_away(int count, int stride, T* rows) {
  for (T* row = rows; row < rows + int64_t(count) * stride; row += stride) {
    auto most = Row<T, W>::load(row);
    for (int c = W; c < stride; c += W) most.take_larger(Row<T, W>::load(row + c));
    const T down = -largest<T, W>(most);
    for (int c = 0; c < stride; c += W) {
      auto x = Row<T, W>::load(row + c);
      x.add(down);
      x.store(row + c);
    }
  }
}

// A row is one vector row, or several of width W.
template <class T, int W>
[[gnu::noinline]] void softmax_rows(int count, int stride, bool not_negative, T* rows) {
  const int64_t values = int64_t(count) * stride;
  if (!not_negative || !all_small<T, W>(values, rows)) take_largest_away<T, W>(count, stride, rows);
  exp_array(rows, values);
  for (T* row = rows; row < rows + values; row += stride) {
    auto first = Row<T, W>::load(row);
    auto sum = first;
    for (int c = W; c < stride; c += W) sum.add_scaled(T(1), row + c);
    const T inverse = T(1) / total<T, W>(sum);
    first.scale(inverse);
    first.store(row);
    for (int c = W; c < stride; c += W) {
      auto x = Row<T, W>::load(row + c);
      x.scale(inverse);
      x.store(row + c);
    }
  }
}

// not_negative: every row's largest value is known to be 0 or more, but for rounding.
template <class T>
inline void softmax(int count, int stride, bool not_negative, T* rows) {
  int width = stride;
  if (stride > kSlab) width = stride % 8 == 0 ? 8 : stride % 4 == 0 ? 4 : stride % 2 == 0 ? 2 : 1;
  for_width(width, [&](auto w) { softmax_rows<T, decltype(w)::value>(count, stride, not_negative, rows); });
}

DENSECRF_END
