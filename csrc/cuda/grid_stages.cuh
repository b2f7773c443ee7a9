// Stages of the spatial Gaussian on a regular grid, the operator of csrc/cpu/grid_field.h, axis by axis:
// between rows of pixels [B, D, H, W, stride] and rows of nodes.
//
// Every kernel gathers: what a node or a pixel gets is one thread's sum, in a fixed order.  Along an axis
// values are an array [outer, length, inner], `inner` counting packs of channels, so the threads of a warp
// read side by side along any axis.
#pragma once
#include "core/grid_node.h"
#include "cuda/rows.cuh"

DENSECRF_BEGIN

struct Axis {
  int64_t outer, size, inner;  // inner: of the pixels or nodes along the axes behind this one
  int spacing, radius;
};

// Nodes [z, y, x] where the axes from `first` on have been splatted.
template <class T>
int64_t nodes_of(const GridView<T>& grid, int first = 0) {
  int64_t nodes = 1;
  for (int a = 0; a < kGridAxes; ++a)
    nodes *= a < first ? grid.size[a] : grid_nodes(grid.size[a], grid.spacing[a]);
  return nodes;
}
// The most of them at any stage.
template <class T>
int64_t most_nodes_of(const GridView<T>& grid) {
  int64_t most = nodes_of(grid);
  for (int a = 1; a < kGridAxes; ++a) most = nodes_of(grid, a) > most ? nodes_of(grid, a) : most;
  return most;
}

// Axes of one tap are left to the slice, but for x: so there is a stage between pixels and nodes on any grid.
template <class T>
DENSECRF_HD bool is_filtered(const GridView<T>& grid, int a) {
  return grid.radius[a] > 0 || a == kGridAxes - 1;
}

// out[node] = sum of the pixels around it by their tents, times `scale` of each unless that is null
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    splat_axis(Axis axis, int64_t nodes, int packs, const T* scale, const Pack<T, V>* in, Pack<T, V>* out) {
  const int64_t row = row_of_thread();
  if (row >= axis.outer * nodes * axis.inner) return;
  const int64_t inner = row % axis.inner, node = row / axis.inner % nodes, outer = row / axis.inner / nodes;
  const int64_t below = (node - 1) * axis.spacing, above = (node + 1) * axis.spacing;
  const int64_t first = below > 0 ? below : 0, end = above < axis.size ? above : axis.size;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack<T, V> sum{};
    int64_t from = (outer * axis.size + first) * axis.inner + inner;
#pragma unroll 2  // or registers spill
    for (int past = int(first - below); past < int(end - below); ++past, from += axis.inner) {
      const T tent = past < axis.spacing ? node_fraction<T>(past, axis.spacing)
                                         : 1 - node_fraction<T>(past - axis.spacing, axis.spacing);
      sum.add_scaled(scale ? tent * scale[from] : tent, in[from * packs + i]);
    }
    out[row * packs + i] = sum;
  }
}

// out[node] = sum_k taps[|k|] in[node + k], k = -radius ... radius; with `scale` as above
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    filter_axis(Axis axis, int packs, const T* taps, const T* scale, const Pack<T, V>* in, Pack<T, V>* out) {
  const int64_t row = row_of_thread();
  if (row >= axis.outer * axis.size * axis.inner) return;
  const int64_t node = row / axis.inner % axis.size;
  const int64_t before = node, behind = axis.size - 1 - node;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    const auto scaled = [&](int64_t k) {
      const int64_t from = row + k * axis.inner;
      Pack<T, V> value = in[from * packs + i];
      if (scale) value.scale(scale[from]);
      return value;
    };
    Pack<T, V> sum = scaled(0);
    sum.scale(taps[0]);
    for (int64_t k = 1; k <= axis.radius; ++k) {
      if (k > before && k > behind) break;
      Pack<T, V> pair{};
      if (k <= before) pair.add(scaled(-k));
      if (k <= behind) pair.add(scaled(k));
      sum.add_scaled(taps[k], pair);
    }
    out[row * packs + i] = sum;
  }
}

// Pack i of what a pixel of the batch receives: interpolated along all axes at once, from the 1, 2, 4 or 8
// nodes around it.
template <class T, int V>
__device__ inline Pack<T, V> sliced(const GridView<T>& grid, int64_t row, int packs, int64_t i,
                                    const Pack<T, V>* nodes) {
  const int64_t depth = grid.size[0], height = grid.size[1], width = grid.size[2];
  const int64_t x = row % width, y = row / width % height, z = row / width / height % depth;
  const int64_t image = row / width / height / depth;
  const NodeAt<T> at[kGridAxes] = {{z, grid.spacing[0]}, {y, grid.spacing[1]}, {x, grid.spacing[2]}};
  int64_t count[kGridAxes];
  T scale = 1;
  for (int a = 0; a < kGridAxes; ++a) {
    count[a] = grid_nodes(grid.size[a], grid.spacing[a]);
    if (!is_filtered(grid, a)) scale *= grid.taps[a][0];
  }
  Pack<T, V> sum{};
  for (int corner = 0; corner < 8; ++corner) {
    T share = 1;
    int64_t node = image;
    for (int a = 0; a < kGridAxes; ++a) {
      const int up = corner >> a & 1;
      share *= up ? at[a].fraction : 1 - at[a].fraction;
      node = node * count[a] + at[a].node + up;
    }
    if (share > 0) sum.add_scaled(share, nodes[node * packs + i]);
  }
  sum.scale(scale);
  return sum;
}

// nodes = the filter of rows, times scale[pixel] unless that is null: splats every axis, then filters every
// axis; the last one, x, comes first, so that what follows has fewer rows.  work: [B * most_nodes_of, stride]
// each.
template <class T>
void queue_grid(Queue* queue, const GridView<T>& grid, int images, int stride, const T* rows, const T* scale,
                T* const (&work)[2], T* nodes) {
  int64_t size[kGridAxes] = {grid.size[0], grid.size[1], grid.size[2]};
  int left = 0;  // stages to come
  for (int a = 0; a < kGridAxes; ++a) left += int(grid.spacing[a] > 1) + int(is_filtered(grid, a));
  const auto queue_axis = [&](int a, bool splat) {
    Axis axis{images, size[a], 1, grid.spacing[a], grid.radius[a]};
    for (int b = 0; b < a; ++b) axis.outer *= size[b];
    for (int b = a + 1; b < kGridAxes; ++b) axis.inner *= size[b];
    if (splat) size[a] = grid_nodes(size[a], grid.spacing[a]);
    --left;
    T* out = left == 0 ? nodes : work[left % 2];
    for_pack<T>(stride, [&](auto width) {
      constexpr int V = decltype(width)::value;
      const int packs = stride / V;
      const dim3 threads = row_threads(packs);
      const unsigned blocks = row_blocks(axis.outer * size[a] * axis.inner, packs);
      if (splat)
        queue->run(blocks, threads, splat_axis<T, V>, axis, size[a], packs, scale, as_packs<V>(rows),
                   as_packs<V>(out));
      else
        queue->run(blocks, threads, filter_axis<T, V>, axis, packs, grid.taps[a], scale, as_packs<V>(rows),
                   as_packs<V>(out));
    });
    rows = out;
    scale = nullptr;
  };
  for (int a = kGridAxes - 1; a >= 0; --a) {
    if (grid.spacing[a] > 1) queue_axis(a, true);
  }
  for (int a = kGridAxes - 1; a >= 0; --a) {
    if (is_filtered(grid, a)) queue_axis(a, false);
  }
}

DENSECRF_END
