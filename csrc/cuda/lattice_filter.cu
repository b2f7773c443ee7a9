// The lattice filter: splat, blur, slice, between the caller's planes; and its gradient.
#include "cuda/lattice_stages.cuh"
#include "cuda/term.cuh"

DENSECRF_BEGIN

namespace {

template <class T>
struct FilterSpace {
  T* rows;     // [B, n, stride]
  T* values;   // [M, stride]
  T* others;   // [M, stride]
  T* borders;  // [border_rows, stride]

  FilterSpace(const Lattice<T>& lattice, int channels, Arena* arena) {
    const int64_t stride = row_stride(channels), points = lattice.images * lattice.points;
    rows = arena->template take<T>(points * stride);
    values = arena->template take<T>(lattice.vertices * stride);
    others = arena->template take<T>(lattice.vertices * stride);
    borders = arena->template take<T>(border_rows(lattice) * stride);
  }
};

// Room for the filter and its transpose.
template <class T>
struct FilterGradSpace {
  T *value_rows, *grad_rows;            // [B, n, stride]
  T *values, *grad, *others, *borders;  // as in FilterSpace

  FilterGradSpace(const Lattice<T>& lattice, int channels, Arena* arena) {
    const FilterSpace<T> forward(lattice, channels, arena);
    const int64_t stride = row_stride(channels);
    value_rows = forward.rows;
    grad_rows = arena->template take<T>(lattice.images * lattice.points * stride);
    values = forward.values;
    grad = arena->template take<T>(lattice.vertices * stride);
    others = forward.others;
    borders = forward.borders;
  }
};

// Of an entry, a point's corner: alpha (grad . V + value . U), with the rows of the point, and V, the
// filtered values, and U, those of the transpose, at the vertex.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    corner_dots(Lattice<T> lattice, int packs, const Pack<T, V>* value_rows, const Pack<T, V>* grad_rows,
                const Pack<T, V>* filtered, const Pack<T, V>* transposed, T* grad_weights) {
  const int64_t entry = row_of_thread();
  if (entry >= entries_of(lattice)) return;
  const int64_t point = entry / (lattice.dims + 1), vertex = lattice.corner[entry];
  Pack<T, V> sum{};
  for (int64_t i = 0; i < packs; ++i) {
    sum.add_product(grad_rows[point * packs + i], filtered[vertex * packs + i]);
    sum.add_product(value_rows[point * packs + i], transposed[vertex * packs + i]);
  }
  T dot = 0;
  for (int j = 0; j < V; ++j) dot += sum.value[j];
  grad_weights[entry] = lattice.alpha * dot;
}

template <class T>
void queue_corner_dots(Queue* queue, const Lattice<T>& lattice, int stride, const T* value_rows,
                       const T* grad_rows, const T* filtered, const T* transposed, T* grad_weights) {
  for_pack<T>(stride, [&](auto width) {
    constexpr int V = decltype(width)::value;
    queue->run(row_blocks(entries_of(lattice), 1), row_threads(1), corner_dots<T, V>, lattice, stride / V,
               as_packs<V>(value_rows), as_packs<V>(grad_rows), as_packs<V>(filtered),
               as_packs<V>(transposed), grad_weights);
  });
}

}  // namespace

template <class T>
size_t filter_workspace(const Lattice<T>& lattice, int channels) {
  Arena arena(nullptr);
  FilterSpace<T> space(lattice, channels, &arena);
  return arena.bytes();
}

template <class T>
Status filter(const Lattice<T>& lattice, int channels, const T* values, T* out, bool transpose,
              void* workspace, Stream stream) {
  Arena arena(workspace);
  const FilterSpace<T> space(lattice, channels, &arena);
  const int stride = row_stride(channels);
  Queue queue(stream);
  queue_load(&queue, lattice.images, channels, lattice.points, values, space.rows);
  queue_splat<T>(&queue, lattice, stride, space.rows, nullptr, space.borders, space.values);
  T* blurred = queue_blur(&queue, lattice, stride, transpose, space.values, space.others);
  Kernel<T> kernel{};
  kernel.lattice = &lattice;
  queue_sliced<T>(&queue, {lattice.images, lattice.points, channels, stride}, kernel, blurred, {space.rows});
  queue_store(&queue, lattice.images, channels, lattice.points, space.rows, out);
  return queue.status();
}

template <class T>
size_t filter_weights_grad_workspace(const Lattice<T>& lattice, int channels) {
  Arena arena(nullptr);
  FilterGradSpace<T> space(lattice, channels, &arena);
  return arena.bytes();
}

template <class T>
Status filter_weights_grad(const Lattice<T>& lattice, int channels, const T* values, const T* grad,
                           T* grad_weights, void* workspace, Stream stream) {
  Arena arena(workspace);
  const FilterGradSpace<T> space(lattice, channels, &arena);
  const int stride = row_stride(channels);
  Queue queue(stream);
  queue_load(&queue, lattice.images, channels, lattice.points, values, space.value_rows);
  queue_load(&queue, lattice.images, channels, lattice.points, grad, space.grad_rows);
  queue_splat<T>(&queue, lattice, stride, space.value_rows, nullptr, space.borders, space.values);
  queue_splat<T>(&queue, lattice, stride, space.grad_rows, nullptr, space.borders, space.grad);
  T* filtered = queue_blur(&queue, lattice, stride, false, space.values, space.others);
  T* others = filtered == space.values ? space.others : space.values;
  T* transposed = queue_blur(&queue, lattice, stride, true, space.grad, others);
  queue_corner_dots<T>(&queue, lattice, stride, space.value_rows, space.grad_rows, filtered, transposed,
                       grad_weights);
  return queue.status();
}

template size_t filter_workspace(const Lattice<float>&, int);
template size_t filter_workspace(const Lattice<double>&, int);
template Status filter(const Lattice<float>&, int, const float*, float*, bool, void*, Stream);
template Status filter(const Lattice<double>&, int, const double*, double*, bool, void*, Stream);

template size_t filter_weights_grad_workspace(const Lattice<float>&, int);
template size_t filter_weights_grad_workspace(const Lattice<double>&, int);
template Status filter_weights_grad(const Lattice<float>&, int, const float*, const float*, float*, void*,
                                    Stream);
template Status filter_weights_grad(const Lattice<double>&, int, const double*, const double*, double*, void*,
                                    Stream);

DENSECRF_END
