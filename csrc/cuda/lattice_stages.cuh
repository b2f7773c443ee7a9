// Splat, blur and slice of a batch of lattices (Adams et al. 2010, section 3), between rows of points
// [B, n, stride] and rows of vertices [M, stride].
//
// No atomics: a vertex is the sum of its entries in their order, so that every run gives the same bits.  How
// many entries a vertex has varies a thousandfold (a clear sky falls into a few simplices), so threads share
// out the entries, not the vertices.
//
// Values on the vertices are stored as S, which is T or BFloat16, and added up as T.
#pragma once
#include "core/bfloat16.h"
#include "cuda/rows.cuh"

DENSECRF_BEGIN

constexpr int kEntriesEach = 32;  // entries that are added up one after the other

template <class T>
DENSECRF_HD int64_t entries_of(const Lattice<T>& lattice) {
  return lattice.images * lattice.points * (lattice.dims + 1);
}
template <class T>
int64_t pieces_of(const Lattice<T>& lattice) {
  return (entries_of(lattice) + kEntriesEach - 1) / kEntriesEach;
}
// Rows of `borders`: the sums of the entries at either end of a piece, whose vertex has more elsewhere.
template <class T>
int64_t border_rows(const Lattice<T>& lattice) {
  return 2 * pieces_of(lattice);
}

// Calls f(values) with the type that the lattice's values are stored as.
template <class T, class V, class F>
void as_stored(const Lattice<T>& lattice, V* values, F f) {
  if constexpr (std::is_same_v<T, float>) {
    using Stored = std::conditional_t<std::is_const_v<V>, const BFloat16, BFloat16>;
    if (lattice.bfloat16) return f(reinterpret_cast<Stored*>(values));
  }
  f(values);
}
// What they take, counted in T and rounded to 16 bytes.
template <class T>
int64_t stored_values(const Lattice<T>& lattice, int stride) {
  const int64_t values = lattice.vertices * stride;
  return lattice.bfloat16 ? (values + 7) / 8 * 4 : values;
}

// Adds up the runs of one vertex in a piece of the entries.  A run that lies in the piece as a whole is the
// value of its vertex; others go to `borders`: [0] what belongs to a vertex of the piece before, [1] to one
// that goes on in the next.
template <class T, class S, int V>
__global__ void __launch_bounds__(kThreads, 4)  // with 48 registers some spill
    splat_pieces(Lattice<T> lattice, int packs, const Pack<T, V>* rows, const T* scale, Pack<S, V>* values,
                 Pack<T, V>* borders) {
  const int64_t piece = row_of_thread(), first = piece * kEntriesEach, all = entries_of(lattice);
  if (first >= all) return;
  const int64_t end = all - first < kEntriesEach ? all : first + kEntriesEach;
  const auto vertex = [&](int64_t e) { return lattice.corner[lattice.sorted[e]]; };
  const int corners = lattice.dims + 1;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    int32_t v = vertex(first);
    bool begins = first == 0 || vertex(first - 1) != v;
    Pack<T, V> sum{};
    for (int64_t e = first; e < end; ++e) {
      const int32_t entry = lattice.sorted[e], next = e + 1 < all ? vertex(e + 1) : -1;
      const int32_t point = entry / corners;
      const T factor = scale ? scale[point] : T(1);
      sum.add_scaled(factor * lattice.weights[entry], rows[int64_t(point) * packs + i]);
      const bool ends = next != v;
      if (ends || e + 1 == end) {
        if (begins && ends)
          values[int64_t(v) * packs + i] = converted<S>(sum);
        else
          borders[(2 * piece + begins) * packs + i] = sum;
        sum = Pack<T, V>{};
        begins = true;
      }
      v = next;
    }
  }
}

// Values of the vertices that splat_pieces() has left: those of several pieces, and of none.
template <class T, class S, int V>
__global__ void __launch_bounds__(kThreads) join_pieces(int64_t vertices, int packs, const int32_t* starts,
                                                        const Pack<T, V>* borders, Pack<S, V>* values) {
  const int64_t v = row_of_thread();
  if (v >= vertices) return;
  const int64_t begin = starts[v], end = starts[v + 1];
  const int64_t first = begin / kEntriesEach, last = (end - 1) / kEntriesEach;
  if (begin < end && first == last) return;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack<T, V> sum{};
    if (begin < end) sum = borders[(2 * first + 1) * packs + i];
    for (int64_t piece = first + 1; piece <= last; ++piece) sum.add(borders[2 * piece * packs + i]);
    values[v * packs + i] = converted<S>(sum);
  }
}

// out = in + blur * (both neighbours along an axis)
template <class T, class S, int V>
__global__ void __launch_bounds__(kThreads) blur_axis(int64_t vertices, int packs, const int32_t* neighbours,
                                                      T blur, const Pack<S, V>* in, Pack<S, V>* out) {
  const int64_t v = row_of_thread();
  if (v >= vertices) return;
  const int64_t lower = neighbours[2 * v], upper = neighbours[2 * v + 1];
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack<T, V> beside{};
    if (lower >= 0) beside.add(converted<T>(in[lower * packs + i]));
    if (upper >= 0) beside.add(converted<T>(in[upper * packs + i]));
    Pack<T, V> sum = converted<T>(in[v * packs + i]);
    sum.add_scaled(blur, beside);
    out[v * packs + i] = converted<S>(sum);
  }
}

// Pack i of what a point receives, without the lattice's alpha.
template <class T, class S, int V>
__device__ inline Pack<T, V> sliced(const Lattice<T>& lattice, int64_t point, int packs, int64_t i,
                                    const Pack<S, V>* values) {
  const int corners = lattice.dims + 1;
  const int32_t* corner = lattice.corner + point * corners;
  const T* weights = lattice.weights + point * corners;
  Pack<T, V> sum{};
  for (int k = 0; k < corners; ++k)
    sum.add_scaled(weights[k], converted<T>(values[int64_t(corner[k]) * packs + i]));
  return sum;
}

// ---- queued stages

// values = the sum over a vertex's entries of weight * row of the point, times scale[point] unless that is
// null.  borders: [border_rows, stride] to work in.
template <class T>
void queue_splat(Queue* queue, const Lattice<T>& lattice, int stride, const T* rows, const T* scale,
                 T* borders, T* values) {
  as_stored(lattice, values, [&](auto* stored) {
    using S = std::remove_pointer_t<decltype(stored)>;
    for_pack<T>(stride, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const int packs = stride / V;
      const dim3 threads = row_threads(packs);
      queue->run(row_blocks(pieces_of(lattice), packs), threads, splat_pieces<T, S, V>, lattice, packs,
                 as_packs<V>(rows), scale, as_packs<V>(stored), as_packs<V>(borders));
      queue->run(row_blocks(lattice.vertices, packs), threads, join_pieces<T, S, V>, lattice.vertices, packs,
                 lattice.starts, as_packs<V>(borders), as_packs<V>(stored));
    });
  });
}

// out = in, blurred along an axis.
template <class T>
void queue_blur_axis(Queue* queue, const Lattice<T>& lattice, int stride, int64_t axis, const T* in, T* out) {
  as_stored(lattice, out, [&](auto* stored) {
    using S = std::remove_pointer_t<decltype(stored)>;
    for_pack<S>(stride, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const int packs = stride / V;
      queue->run(row_blocks(lattice.vertices, packs), row_threads(packs), blur_axis<T, S, V>,
                 lattice.vertices, packs, lattice.neighbours + 2 * axis * lattice.vertices, lattice.blur,
                 as_packs<V>(reinterpret_cast<const S*>(in)), as_packs<V>(stored));
    });
  });
}

// Blurs along all axes, from one buffer into the other and back.  Returns the one with the result.
template <class T>
T* queue_blur(Queue* queue, const Lattice<T>& lattice, int stride, bool transpose, T* values, T* others) {
  for (int i = 0; i <= lattice.dims; ++i) {
    queue_blur_axis(queue, lattice, stride, transpose ? lattice.dims - i : i, values, others);
    T* blurred = others;
    others = values;
    values = blurred;
  }
  return values;
}

DENSECRF_END
