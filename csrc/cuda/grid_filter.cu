// The spatial Gaussian on a regular grid, between the caller's planes.
#include "cuda/rows.cuh"
#include "cuda/term.cuh"

DENSECRF_BEGIN

namespace {

template <class T>
struct GridSpace {
  Kernel<T> kernel{};
  Rows rows;
  T* points;  // [B, n, stride]
  T* nodes;   // filtered
  FilterWork<T> work;

  GridSpace(const GridView<T>& grid, int images, int channels, Arena* arena)
      : rows{images, grid.size[0] * grid.size[1] * grid.size[2], channels, row_stride(channels)} {
    kernel.grid = &grid;
    points = arena->template take<T>(rows.values());
    nodes = arena->template take<T>(filtered_values(kernel, rows));
    for (T*& buffer : work.buffer) buffer = arena->template take<T>(filter_work(kernel, rows));
  }
};

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
  const Rows& rows = space.rows;
  Queue queue(stream);
  queue_load(&queue, images, channels, rows.points, values, space.points);
  queue_filter<T>(&queue, rows, space.kernel, space.points, nullptr, false, space.work, space.nodes);
  queue_sliced<T>(&queue, rows, space.kernel, space.nodes, {space.points});
  queue_store(&queue, images, channels, rows.points, space.points, out);
  return queue.status();
}

template size_t grid_filter_workspace(const GridView<float>&, int, int);
template size_t grid_filter_workspace(const GridView<double>&, int, int);
template Status grid_filter(const GridView<float>&, int, int, const float*, float*, void*, Stream);
template Status grid_filter(const GridView<double>&, int, int, const double*, double*, void*, Stream);

DENSECRF_END
