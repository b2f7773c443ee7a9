// The lattice filter: splat, blur, slice, between the caller's planes; and its gradient.
#include "cuda/sides.cuh"

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
  queue.fill(grad_weights, 0, size_t(entries_of(lattice)) * sizeof(T));
  const Rows rows{lattice.images, lattice.points, channels, stride};
  queue_side<T>(&queue, rows, lattice, {space.grad_rows, T(1), filtered, nullptr, grad_weights, nullptr});
  queue_side<T>(&queue, rows, lattice, {space.value_rows, T(1), transposed, nullptr, grad_weights, nullptr});
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
