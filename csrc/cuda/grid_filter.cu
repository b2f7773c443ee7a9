// The spatial Gaussian on a regular grid, between the caller's planes.
#include "cuda/grid_stages.cuh"

DENSECRF_BEGIN

namespace {

template <class T>
struct GridSpace {
  T* rows;     // [B, pixels, stride]
  T* nodes;    // [B, nodes, stride]
  T* work[2];  // [B, most nodes, stride]

  GridSpace(const GridView<T>& grid, int images, int channels, Arena* arena) {
    const int64_t stride = row_stride(channels);
    rows = arena->template take<T>(images * pixels_of(grid) * stride);
    nodes = arena->template take<T>(images * nodes_of(grid) * stride);
    for (T*& values : work) values = arena->template take<T>(images * most_nodes_of(grid) * stride);
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
  const int stride = row_stride(channels);
  const int64_t points = pixels_of(grid);
  Queue queue(stream);
  queue_load(&queue, images, channels, points, values, space.rows);
  queue_grid<T>(&queue, grid, images, stride, space.rows, nullptr, space.work, space.nodes);
  queue_slice(&queue, grid, images, stride, space.nodes, space.rows);
  queue_store(&queue, images, channels, points, space.rows, out);
  return queue.status();
}

template size_t grid_filter_workspace(const GridView<float>&, int, int);
template size_t grid_filter_workspace(const GridView<double>&, int, int);
template Status grid_filter(const GridView<float>&, int, int, const float*, float*, void*, Stream);
template Status grid_filter(const GridView<double>&, int, int, const double*, double*, void*, Stream);

DENSECRF_END
