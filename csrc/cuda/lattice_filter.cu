// The lattice filter: splat, blur, slice, between the caller's planes.
#include "cuda/lattice_stages.cuh"

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
  queue_slice(&queue, lattice, stride, blurred, space.rows);
  queue_store(&queue, lattice.images, channels, lattice.points, space.rows, out);
  return queue.status();
}

template size_t filter_workspace(const Lattice<float>&, int);
template size_t filter_workspace(const Lattice<double>&, int);
template Status filter(const Lattice<float>&, int, const float*, float*, bool, void*, Stream);
template Status filter(const Lattice<double>&, int, const double*, double*, bool, void*, Stream);

DENSECRF_END
