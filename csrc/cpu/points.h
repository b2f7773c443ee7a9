// Chunks of points between the caller's planes [C, N] and rows [count, stride].
#pragma once
#include "cpu/transpose.h"

DENSECRF_BEGIN

// A value, or four, of column `j` on its way into a transposed array.
template <class T>
struct Shifted {
  T factor;
  const T* down;  // [columns], taken away
  T least;
  void operator()(T& x, int j) const { x = larger(factor * x - down[j], least); }
  void operator()(typename Vec<T, 4>::type& x, int j) const {
    const typename Vec<T, 4>::type floor = least - typename Vec<T, 4>::type{};
    x = factor * x - *reinterpret_cast<const typename Vec<T, 4>::loose*>(down + j);
    x = x < floor ? floor : x;
  }
};

// Calls f(first, count) for chunks of points that do not cross the border between rows of so many points.
template <class F>
inline void for_chunks(int64_t begin, int64_t end, int64_t row_points, F&& f) {
  for (int64_t i = begin; i < end;) {
    const int64_t border = (i / row_points + 1) * row_points;
    const int count = int(smaller<int64_t>(kChunk, smaller(end, border) - i));
    f(i, count);
    i += count;
  }
}

// A plane's next chunk: planes are more streams than the processor follows by itself.
template <class T>
inline void prefetch_plane(const T* chunk) {
  for (int p = kChunk; p < 2 * kChunk; p += 64 / int(sizeof(T))) __builtin_prefetch(chunk + p);
}

// Whether planes[c, first + p] are finite, c < channels, p < count <= kChunk.
template <class T>
[[gnu::noinline]] inline bool finite_points(const T* planes, int64_t points, int channels, int64_t first,
                                            int count) {
  T bad[kChunk] = {};  // x - x is 0, or NaN where x is not finite
  for (int c = 0; c < channels; ++c) {
    const T* plane = planes + c * points + first;
    prefetch_plane(plane);
    for (int p = 0; p < count; ++p) bad[p] += plane[p] - plane[p];
  }
  T sum = 0;
  for (int p = 0; p < count; ++p) sum += bad[p];
  return sum == 0;
}

// most[p] = the largest of factor * planes[c, first + p], p < count <= kChunk.  Returns false when a value is
// not finite.
template <class T>
[[gnu::noinline]] inline bool largest_of_points(const T* planes, int64_t points, int channels, int64_t first,
                                                int count, T factor, T* most) {
  using Points = Row<T, kChunk>;
  T padded[kChunk] = {};
  auto top = Points::zero(), bad = Points::zero();
  for (int c = 0; c < channels; ++c) {
    const T* plane = planes + c * points + first;
    prefetch_plane(plane);
    if (count < kChunk) {
      for (int p = 0; p < count; ++p) padded[p] = plane[p];
      plane = padded;
    }
    auto x = Points::load(plane);
    bad.add_scaled(T(1), x);
    bad.add_scaled(T(-1), x);
    x.scale(factor);
    if (c == 0) top = x;
    top.take_larger(x);
  }
  top.store(most);
  return total(bad) == 0;
}

// Score of the padding channels: their probability is as good as zero.
constexpr double kNever = -1e30;

template <class T>
inline void fill_padding(int channels, int count, int stride, T value, T* rows) {
  for (int p = 0; p < count && channels < stride; ++p) {
    for (int c = channels; c < stride; ++c) rows[int64_t(p) * stride + c] = value;
  }
}

// rows[p, c] = factor * planes[c, first + p] - most[p], most[p] being the point's largest, which changes no
// probability, so that sums of scores and messages keep their digits and padding is below every label.
// Returns false when a value is not finite.
template <class T>
inline bool load_shifted(const T* planes, T factor, int64_t points, int channels, int64_t first, int count,
                         int stride, T* most, T* rows) {
  const bool finite = largest_of_points(planes, points, channels, first, count, factor, most);
  transpose(channels, count, planes + first, points, rows, int64_t(stride),
            Shifted<T>{factor, most, T(kNever)});
  fill_padding(channels, count, stride, T(kNever), rows);
  return finite;
}

// rows[p, c] = planes[c, first + p]; channels beyond C get 0.  Returns false when a value is not finite.
template <class T>
[[gnu::noinline]] inline bool load_points(const T* planes, int64_t points, int channels, int64_t first,
                                          int count, int stride, T* rows) {
  const bool finite = finite_points(planes, points, channels, first, count);
  transpose(channels, count, planes + first, points, rows, int64_t(stride), AsIs());
  fill_padding(channels, count, stride, T(0), rows);
  return finite;
}

template <class T>
[[gnu::noinline]] inline void store_points(const T* rows, int stride, int64_t points, int channels,
                                           int64_t first, int count, T* planes) {
  const bool large = points * channels * int64_t(sizeof(T)) > kSecondLevelCache;
  const bool aligned = (reinterpret_cast<uintptr_t>(planes + first) | size_t(points) * sizeof(T)) % 16 == 0;
  if (large && aligned)
    transpose<true>(count, channels, rows, int64_t(stride), planes + first, points, AsIs());
  else
    transpose(count, channels, rows, int64_t(stride), planes + first, points, AsIs());
}

DENSECRF_END
