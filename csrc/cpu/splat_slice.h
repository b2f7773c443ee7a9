// Splat and slice of a run of points, for a pair of slabs (Adams et al. 2010, sections 3.1 and 3.3).
#pragma once
#include "cpu/rows.h"

DENSECRF_BEGIN

// A value array on the vertices of one lattice.
template <class T>
struct VertexValues {
  T* data;
  int64_t vertices;
  T* slab(int column) const { return data + column * vertices; }
};

// out[p] = in[p] + gain * out_scale[p] * sum_k weight_k * values[vertex_k]
template <class T>
using SliceFn = void (*)(const LatticeView<T>& lattice, VertexValues<T> values, int column, int64_t first, int count, const T* in,
                         T gain, const T* out_scale, T* out, int stride);
// values[vertex_k] += weight_k * in_scale[p] * rows[p]
template <class T>
using SplatFn = void (*)(const LatticeView<T>& lattice, VertexValues<T> values, int column, int64_t first, int count, const T* in,
                         const T* in_scale, int stride);

template <class T, int D, int W, int W2>
void slice_points(const LatticeView<T>& lattice, VertexValues<T> values, int column, int64_t first, int count, const T* in,
                  T gain, const T* out_scale, T* out, int stride) {
  const int corners = (D ? D : lattice.dims) + 1;
  const T* a = values.slab(column);
  const T* b = values.slab(column + W);
  for (int p = 0; p < count; ++p) {
    const T* w = lattice.weights + (first + p) * corners;
    const int32_t* id = lattice.simplex_vertices + int64_t(lattice.simplex[first + p]) * corners;
    auto x = Row<T, W>::zero();
    auto y = Row<T, W2>::zero();
    for (int k = 0; k < corners; ++k) {
      x.add_scaled(w[k], a + int64_t(id[k]) * W);
      y.add_scaled(w[k], b + int64_t(id[k]) * W2);
    }
    const T scale = out_scale ? gain * out_scale[first + p] : gain;
    const int64_t at = int64_t(p) * stride + column;
    auto x0 = Row<T, W>::load(in + at);
    auto y0 = Row<T, W2>::load(in + at + W);
    x0.add_scaled(scale, x);
    y0.add_scaled(scale, y);
    x0.store(out + at);
    y0.store(out + at + W);
  }
}

template <class T, int D, int W, int W2>
void splat_points(const LatticeView<T>& lattice, VertexValues<T> values, int column, int64_t first, int count, const T* in,
                  const T* in_scale, int stride) {
  const int corners = (D ? D : lattice.dims) + 1;
  T* a = values.slab(column);
  T* b = values.slab(column + W);
  for (int p = 0; p < count; ++p) {
    const T* w = lattice.weights + (first + p) * corners;
    const int32_t* id = lattice.simplex_vertices + int64_t(lattice.simplex[first + p]) * corners;
    const int64_t at = int64_t(p) * stride + column;
    auto x = Row<T, W>::load(in + at);
    auto y = Row<T, W2>::load(in + at + W);
    if (in_scale) {
      x.scale(in_scale[first + p]);
      y.scale(in_scale[first + p]);
    }
    for (int k = 0; k < corners; ++k) {
      T* pa = a + int64_t(id[k]) * W;
      T* pb = b + int64_t(id[k]) * W2;
      auto va = Row<T, W>::load(pa);
      auto vb = Row<T, W2>::load(pb);
      va.add_scaled(w[k], x);
      vb.add_scaled(w[k], y);
      va.store(pa);
      vb.store(pb);
    }
  }
}

template <class T, int D>
inline SliceFn<T> slice_for_widths(SlabPair pair) {
  if (pair.width2 == 16) return slice_points<T, D, 16, 16>;
  if (pair.width2 == 8) return slice_points<T, D, 16, 8>;
  if (pair.width2 == 4) return slice_points<T, D, 16, 4>;
  if (pair.width == 16) return slice_points<T, D, 16, 0>;
  if (pair.width == 8) return slice_points<T, D, 8, 0>;
  if (pair.width == 4) return slice_points<T, D, 4, 0>;
  if (pair.width == 2) return slice_points<T, D, 2, 0>;
  return slice_points<T, D, 1, 0>;
}
template <class T, int D>
inline SplatFn<T> splat_for_widths(SlabPair pair) {
  if (pair.width2 == 16) return splat_points<T, D, 16, 16>;
  if (pair.width2 == 8) return splat_points<T, D, 16, 8>;
  if (pair.width2 == 4) return splat_points<T, D, 16, 4>;
  if (pair.width == 16) return splat_points<T, D, 16, 0>;
  if (pair.width == 8) return splat_points<T, D, 8, 0>;
  if (pair.width == 4) return splat_points<T, D, 4, 0>;
  if (pair.width == 2) return splat_points<T, D, 2, 0>;
  return splat_points<T, D, 1, 0>;
}

// The code for float and the common dimensions is unrolled over the corners; the rest loops.
template <class T>
inline SliceFn<T> slice_function(int dims, SlabPair pair) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (dims == 2) return slice_for_widths<T, 2>(pair);
    if (dims == 3) return slice_for_widths<T, 3>(pair);
    if (dims == 5) return slice_for_widths<T, 5>(pair);
    if (dims == 6) return slice_for_widths<T, 6>(pair);
  }
  return slice_for_widths<T, 0>(pair);
}
template <class T>
inline SplatFn<T> splat_function(int dims, SlabPair pair) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (dims == 2) return splat_for_widths<T, 2>(pair);
    if (dims == 3) return splat_for_widths<T, 3>(pair);
    if (dims == 5) return splat_for_widths<T, 5>(pair);
    if (dims == 6) return splat_for_widths<T, 6>(pair);
  }
  return splat_for_widths<T, 0>(pair);
}

DENSECRF_END
