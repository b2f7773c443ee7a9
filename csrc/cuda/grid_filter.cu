// The spatial Gaussian on a regular grid: the operator of csrc/cpu/grid_field.h, axis by axis.
//
// Every kernel gathers: what a node or a pixel gets is one thread's sum, in a fixed order.  Along an axis
// values are an array [outer, length, inner], `inner` counting packs of channels, so the threads of a warp
// read side by side along any axis.
#include "core/grid_node.h"
#include "cuda/rows.cuh"

DENSECRF_BEGIN

namespace {

struct Axis {
  int64_t outer, size, inner;  // inner: of the pixels or nodes along the axes behind this one
  int spacing, radius;
};

template <class T>
int64_t pixels_of(const GridView<T>& grid) {
  return grid.size[0] * grid.size[1] * grid.size[2];
}

// Nodes [z, y, x] where the axes from `first` on have been splatted.
template <class T>
int64_t nodes_of(const GridView<T>& grid, int first) {
  int64_t nodes = 1;
  for (int a = 0; a < kGridAxes; ++a)
    nodes *= a < first ? grid.size[a] : grid_nodes(grid.size[a], grid.spacing[a]);
  return nodes;
}

template <class T>
struct GridSpace {
  T* rows;      // [B, pixels, stride]
  T* nodes[2];  // [B, nodes, stride], enough for the most that any stage has

  GridSpace(const GridView<T>& grid, int images, int channels, Arena* arena) {
    const int64_t stride = row_stride(channels);
    int64_t most = nodes_of(grid, 0);
    for (int a = 1; a < kGridAxes; ++a) most = nodes_of(grid, a) > most ? nodes_of(grid, a) : most;
    rows = arena->template take<T>(images * pixels_of(grid) * stride);
    for (T*& values : nodes) values = arena->template take<T>(images * most * stride);
  }
};

// out[node] = sum of the pixels around it by their tents
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    splat_axis(Axis axis, int64_t nodes, int packs, const Pack<T, V>* in, Pack<T, V>* out) {
  const int64_t row = row_of_thread();
  if (row >= axis.outer * nodes * axis.inner) return;
  const int64_t inner = row % axis.inner, node = row / axis.inner % nodes, outer = row / axis.inner / nodes;
  const int64_t below = (node - 1) * axis.spacing, above = (node + 1) * axis.spacing;
  const int64_t first = below > 0 ? below : 0, end = above < axis.size ? above : axis.size;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack<T, V> sum{};
    for (int64_t pixel = first; pixel < end; ++pixel) {
      const NodeAt<T> at(pixel, axis.spacing);
      sum.add_scaled(at.node == node ? 1 - at.fraction : at.fraction,
                     in[((outer * axis.size + pixel) * axis.inner + inner) * packs + i]);
    }
    out[row * packs + i] = sum;
  }
}

// out[node] = sum_k taps[|k|] in[node + k], k = -radius ... radius
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    filter_axis(Axis axis, int packs, const T* taps, const Pack<T, V>* in, Pack<T, V>* out) {
  const int64_t row = row_of_thread();
  if (row >= axis.outer * axis.size * axis.inner) return;
  const int64_t node = row / axis.inner % axis.size, step = axis.inner * packs;
  const int64_t before = node, behind = axis.size - 1 - node;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    const Pack<T, V>* centre = in + row * packs + i;
    Pack<T, V> sum = *centre;
    sum.scale(taps[0]);
    for (int64_t k = 1; k <= axis.radius; ++k) {
      if (k > before && k > behind) break;
      Pack<T, V> pair{};
      if (k <= before) pair.add(centre[-k * step]);
      if (k <= behind) pair.add(centre[k * step]);
      sum.add_scaled(taps[k], pair);
    }
    out[row * packs + i] = sum;
  }
}

// Interpolates along all axes at once, from the 1, 2, 4 or 8 nodes around a pixel.  An axis of one tap has
// not been filtered yet.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    slice_grid(GridView<T> grid, int images, int packs, const Pack<T, V>* nodes, Pack<T, V>* rows) {
  const int64_t row = row_of_thread(), depth = grid.size[0], height = grid.size[1], width = grid.size[2];
  if (row >= images * depth * height * width) return;
  const int64_t x = row % width, y = row / width % height, z = row / width / height % depth;
  const int64_t image = row / width / height / depth;
  const NodeAt<T> at[kGridAxes] = {{z, grid.spacing[0]}, {y, grid.spacing[1]}, {x, grid.spacing[2]}};
  int64_t count[kGridAxes];
  T scale = 1;
  for (int a = 0; a < kGridAxes; ++a) {
    count[a] = grid_nodes(grid.size[a], grid.spacing[a]);
    if (grid.radius[a] == 0) scale *= grid.taps[a][0];
  }
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
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
    rows[row * packs + i] = sum;
  }
}

// Splats every axis, then filters every axis; the last one, x, comes first, so that what follows has fewer
// rows.  Where there is nothing of either to do, the slice scales the rows in place.
template <class T, int V>
void queue_grid(const GridView<T>& grid, int images, int packs, const GridSpace<T>& space, Queue* queue) {
  const dim3 threads = row_threads(packs);
  const auto as_packs = [](T* values) { return reinterpret_cast<Pack<T, V>*>(values); };
  const Pack<T, V>* in = as_packs(space.rows);
  Pack<T, V>* out[2] = {as_packs(space.nodes[0]), as_packs(space.nodes[1])};
  int64_t size[kGridAxes] = {grid.size[0], grid.size[1], grid.size[2]};
  int turn = 0;
  const auto queue_axis = [&](int a, bool splat) {
    Axis axis{images, size[a], 1, grid.spacing[a], grid.radius[a]};
    for (int b = 0; b < a; ++b) axis.outer *= size[b];
    for (int b = a + 1; b < kGridAxes; ++b) axis.inner *= size[b];
    if (splat) size[a] = grid_nodes(size[a], grid.spacing[a]);
    const unsigned blocks = row_blocks(axis.outer * size[a] * axis.inner, packs);
    if (splat)
      queue->run(blocks, threads, splat_axis<T, V>, axis, size[a], packs, in, out[turn]);
    else
      queue->run(blocks, threads, filter_axis<T, V>, axis, packs, grid.taps[a], in, out[turn]);
    in = out[turn];
    turn = 1 - turn;
  };
  for (int a = kGridAxes - 1; a >= 0; --a) {
    if (grid.spacing[a] > 1) queue_axis(a, true);
  }
  for (int a = kGridAxes - 1; a >= 0; --a) {
    if (grid.radius[a] > 0) queue_axis(a, false);
  }
  queue->run(row_blocks(images * pixels_of(grid), packs), threads, slice_grid<T, V>, grid, images, packs, in,
             as_packs(space.rows));
}

}  // namespace

template <class T>
size_t grid_filter_workspace(const GridView<T>& grid, int images, int channels) {
  Arena arena(nullptr);
  GridSpace<T> space(grid, images, channels, &arena);
  return arena.bytes();
}

template <class T>
Status grid_filter(const GridView<T>& grid, int images, int channels, const T* values, T* out,
                   void* workspace, Stream stream) {
  Arena arena(workspace);
  const GridSpace<T> space(grid, images, channels, &arena);
  const int stride = row_stride(channels);
  const int64_t points = pixels_of(grid);
  Queue queue(stream);
  queue_load(&queue, images, channels, points, values, space.rows);
  for_pack<T>(stride, [&](auto width) {
    constexpr int V = decltype(width)::value;
    queue_grid<T, V>(grid, images, stride / V, space, &queue);
  });
  queue_store(&queue, images, channels, points, space.rows, out);
  return queue.status();
}

template size_t grid_filter_workspace(const GridView<float>&, int, int);
template size_t grid_filter_workspace(const GridView<double>&, int, int);
template Status grid_filter(const GridView<float>&, int, int, const float*, float*, void*, Stream);
template Status grid_filter(const GridView<double>&, int, int, const double*, double*, void*, Stream);

DENSECRF_END
