// Splat and slice of a run of points, for one slab (Adams et al. 2010, sections 3.1 and 3.3).
#pragma once
#include "cpu/float16.h"

DENSECRF_BEGIN

// A value array on the vertices of one lattice.
template <class T>
struct VertexValues {
  using Stored = T;
  T* data;
  int64_t vertices;
  T* slab(int column) const { return data + column * vertices; }
};

// out[p] = in[p] + gain * out_scale[p] * sum_k weight_k * values[vertex_k], the values stored as S
template <class T, class S>
using SliceFn = void (*)(const LatticeView<T>& lattice, VertexValues<S> values, int column, int64_t first,
                         int count, const T* in, T gain, const T* out_scale, T* out, int stride);
// values[vertex_k] += weight_k * in_scale[p] * rows[p]
template <class T>
using SplatFn = void (*)(const LatticeView<T>& lattice, VertexValues<T> values, int column, int64_t first,
                         int count, const T* in, const T* in_scale, int stride);

// dots[p, k] += gain * scale[p] * rows[p] . values[vertex_k], over the channels of the slab
template <class T>
using DotsFn = void (*)(const LatticeView<T>& lattice, VertexValues<T> values, int column, int64_t first,
                        int count, const T* rows, T gain, const T* scale, T* dots, int stride);

template <class T, class S, int D, int W>
void slice_points(const LatticeView<T>& lattice, VertexValues<S> values, int column, int64_t first, int count,
                  const T* in, T gain, const T* out_scale, T* out, int stride) {
  const int corners = (D ? D : lattice.dims) + 1;
  const S* slab = values.slab(column);
  in += column;
  out += column;
  for (int p = 0; p < count; ++p, in += stride, out += stride) {
    const T* w = lattice.weights + (first + p) * corners;
    const int32_t* id = lattice.simplex_vertices + int64_t(lattice.simplex[first + p]) * corners;
    auto sum = Row<T, W>::zero();
    for (int k = 0; k < corners; ++k) sum.add_scaled(w[k], load_row<T, W>(slab + int64_t(id[k]) * W));
    prefetch_next<W>(in, stride);
    auto row = Row<T, W>::load(in);
    row.add_scaled(out_scale ? gain * out_scale[first + p] : gain, sum);
    row.store(out);
  }
}

template <class T, int D, int W>
void splat_points(const LatticeView<T>& lattice, VertexValues<T> values, int column, int64_t first, int count,
                  const T* in, const T* in_scale, int stride) {
  const int corners = (D ? D : lattice.dims) + 1;
  T* slab = values.slab(column);
  in += column;
  for (int p = 0; p < count; ++p, in += stride) {
    const T* w = lattice.weights + (first + p) * corners;
    const int32_t* id = lattice.simplex_vertices + int64_t(lattice.simplex[first + p]) * corners;
    auto row = Row<T, W>::load(in);
    if (in_scale) row.scale(in_scale[first + p]);
    for (int k = 0; k < corners; ++k) {
      T* at = slab + int64_t(id[k]) * W;
      auto sum = Row<T, W>::load(at);
      sum.add_scaled(w[k], row);
      sum.store(at);
    }
  }
}

template <class T, int D, int W>
void corner_dots(const LatticeView<T>& lattice, VertexValues<T> values, int column, int64_t first, int count,
                 const T* rows, T gain, const T* scale, T* dots, int stride) {
  const int corners = (D ? D : lattice.dims) + 1;
  const T* slab = values.slab(column);
  rows += column;
  for (int p = 0; p < count; ++p, rows += stride, dots += corners) {
    const int32_t* id = lattice.simplex_vertices + int64_t(lattice.simplex[first + p]) * corners;
    const auto row = Row<T, W>::load(rows);
    const T factor = scale ? gain * scale[first + p] : gain;
    for (int k = 0; k < corners; ++k) {
      auto product = Row<T, W>::load(slab + int64_t(id[k]) * W);
      product.multiply(row);
      dots[k] += factor * total(product);
    }
  }
}

// The code for float and the common dimensions is unrolled over the corners; the rest loops.
template <class T, class S, int W>
inline SliceFn<T, S> slice_function(int dims) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (dims == 2) return slice_points<T, S, 2, W>;
    if (dims == 3) return slice_points<T, S, 3, W>;
    if (dims == 5) return slice_points<T, S, 5, W>;
    if (dims == 6) return slice_points<T, S, 6, W>;
  }
  return slice_points<T, S, 0, W>;
}
template <class T, int W>
inline SplatFn<T> splat_function(int dims) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (dims == 2) return splat_points<T, 2, W>;
    if (dims == 3) return splat_points<T, 3, W>;
    if (dims == 5) return splat_points<T, 5, W>;
    if (dims == 6) return splat_points<T, 6, W>;
  }
  return splat_points<T, 0, W>;
}
template <class T, int W>
inline DotsFn<T> dots_function(int dims) {
  return sizeof(T) == sizeof(float) && dims == 5 ? corner_dots<T, 5, W> : corner_dots<T, 0, W>;
}

DENSECRF_END
