// Gradients inside a filter: of the barycentric weights and of the normalisation.
#pragma once
#include "cuda/grid_stages.cuh"
#include "cuda/lanes.cuh"
#include "cuda/lattice_stages.cuh"
#include "cuda/term.cuh"

DENSECRF_BEGIN

// One side of a filter: its values, and the rows that meet them at the points.
template <class T>
struct Side {
  const T* rows;    // [B n, stride], of which
  T gain;           // times as much counts
  const T* values;  // on the vertices or nodes
  const T* norm;    // [B n] or null
  T* grad_weights;  // [B n, d+1] or null
  T* grad_norm;     // [B n] or null
};

// Adds up gain * rows . values of the corners: a thread beyond the last point only lends its lane.
template <class T, class S, int V>
__global__ void __launch_bounds__(kThreads)
    side_gradients(int64_t points, int packs, Lattice<T> lattice, const S* values, Side<T> side) {
  const int64_t point = row_of_thread();
  const int corners = lattice.dims + 1, own = point < points ? packs : 0;
  const Pack<T, V>* row = as_packs<V>(side.rows) + point * packs;
  const bool writes = own > 0 && threadIdx.x == 0;
  const T gain = side.gain * lattice.alpha;
  T sum = 0;
  for (int k = 0; k < corners; ++k) {
    const int64_t entry = point * corners + k;
    T product = 0;
    for (int i = int(threadIdx.x); i < own; i += int(blockDim.x))
      product += dot(row[i], converted<T>(as_packs<V>(values)[int64_t(lattice.corner[entry]) * packs + i]));
    product = gain * sum_of_lanes(product);
    if (!writes) continue;
    sum += lattice.weights[entry] * product;
    if (side.grad_weights) side.grad_weights[entry] += side.norm ? side.norm[point] * product : product;
  }
  if (writes && side.grad_norm) side.grad_norm[point] += sum;
}
// The same of a grid, which has no weights to learn.
template <class T, class S, int V>
__global__ void __launch_bounds__(kThreads)
    side_gradients(int64_t points, int packs, GridView<T> grid, const S* values, Side<T> side) {
  const int64_t point = row_of_thread();
  const int own = point < points ? packs : 0;
  T sum = 0;
  for (int i = int(threadIdx.x); i < own; i += int(blockDim.x))
    sum += dot(as_packs<V>(side.rows)[point * packs + i], sliced(grid, point, packs, i, as_packs<V>(values)));
  sum = sum_of_lanes(sum);
  if (own > 0 && threadIdx.x == 0) side.grad_norm[point] += side.gain * sum;
}

template <class T, class S, class Field>
void queue_side(Queue* queue, const Rows& rows, const Field& field, const S* values, const Side<T>& side) {
  for_pack<T>(rows.stride, [&](auto width) {
    constexpr int V = decltype(width)::value;
    const int packs = rows.stride / V;
    void (*const kernel)(int64_t, int, Field, const S*, Side<T>) = side_gradients<T, S, V>;
    queue->run(lane_blocks(rows.count(), packs), lane_threads(packs), kernel, rows.count(), packs, field,
               values, side);
  });
}
template <class T>
void queue_side(Queue* queue, const Rows& rows, const Lattice<T>& lattice, const Side<T>& side) {
  as_stored(lattice, side.values, [&](auto* stored) { queue_side(queue, rows, lattice, stored, side); });
}
template <class T>
void queue_side(Queue* queue, const Rows& rows, const GridView<T>& grid, const Side<T>& side) {
  queue_side(queue, rows, grid, side.values, side);
}

DENSECRF_END
