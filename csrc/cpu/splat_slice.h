// Splat and slice of a run of points, for one slab (Adams et al. 2010, sections 3.1 and 3.3).
#pragma once
#include "cpu/float16.h"

DENSECRF_BEGIN

// slab: values on the vertices, W channels each; in, out, rows: points `first` ... first + count - 1, the
// same channels of rows of `stride`.

// out[p] = in[p] + gain * out_scale[p] * sum_k weight_k * slab[vertex_k], the values stored as S, from
// channel `column` of the points on; in: null for zeros
template <class T, class S>
using SliceFn = void (*)(const LatticeView<T>& lattice, const S* slab, int column, int64_t first, int count,
                         const T* in, T gain, const T* out_scale, T* out, int stride);
// slab[vertex_k] += weight_k * in_scale[p] * rows[p]
template <class T>
using SplatFn = void (*)(const LatticeView<T>& lattice, T* slab, int64_t first, int count, const T* rows,
                         const T* in_scale, int stride);
// dots[p, k] += gain * scale[p] * rows[p] . slab[vertex_k], over the channels of the slab
template <class T>
using DotsFn = void (*)(const LatticeView<T>& lattice, const T* slab, int64_t first, int count, const T* rows,
                        T gain, const T* scale, T* dots, int stride);

// Corners of the points of a lattice, D dimensions if that is not 0.
template <class T, int D>
struct Corners {
  const T* all_weights;
  const int32_t *simplex, *simplex_vertices;
  int dims;

  explicit Corners(const LatticeView<T>& lattice)
      : all_weights(lattice.weights),
        simplex(lattice.simplex),
        simplex_vertices(lattice.simplex_vertices),
        dims(lattice.dims) {}
  int count() const { return (D ? D : dims) + 1; }
  const T* weights(int64_t point) const { return all_weights + point * count(); }
  const int32_t* vertices(int64_t point) const {
    return simplex_vertices + int64_t(simplex[point]) * count();
  }
};

template <class T, class S, int D, int W>
void slice_points(const LatticeView<T>& lattice, const S* slab, int column, int64_t first, int count,
                  const T* in, T gain, const T* out_scale, T* out, int stride) {
  const Corners<T, D> corners(lattice);
  const SliceOnto<T, W, T> onto(in, column, stride, out);
  out += column;
  for (int p = 0; p < count; ++p, out += stride) {
    const T* w = corners.weights(first + p);
    const int32_t* id = corners.vertices(first + p);
    auto sum = Row<T, W>::zero();
    for (int k = 0; k < corners.count(); ++k) sum.add_scaled(w[k], load_row<T, W>(slab + int64_t(id[k]) * W));
    auto row = onto.row(p);
    row.add_scaled(out_scale ? gain * out_scale[first + p] : gain, sum);
    row.store(out);
  }
}

template <class T, int D, int W>
void splat_points(const LatticeView<T>& lattice, T* slab, int64_t first, int count, const T* rows,
                  const T* in_scale, int stride) {
  const Corners<T, D> corners(lattice);
  for (int p = 0; p < count; ++p, rows += stride) {
    const T* w = corners.weights(first + p);
    const int32_t* id = corners.vertices(first + p);
    auto row = Row<T, W>::load(rows);
    if (in_scale) row.scale(in_scale[first + p]);
    for (int k = 0; k < corners.count(); ++k) {
      T* at = slab + int64_t(id[k]) * W;
      auto sum = Row<T, W>::load(at);
      sum.add_scaled(w[k], row);
      sum.store(at);
    }
  }
}

template <class T, int D, int W>
void corner_dots(const LatticeView<T>& lattice, const T* slab, int64_t first, int count, const T* rows,
                 T gain, const T* scale, T* dots, int stride) {
  const Corners<T, D> corners(lattice);
  for (int p = 0; p < count; ++p, rows += stride, dots += corners.count()) {
    const int32_t* id = corners.vertices(first + p);
    const auto row = Row<T, W>::load(rows);
    const T factor = scale ? gain * scale[first + p] : gain;
    for (int k = 0; k < corners.count(); ++k) {
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
