// Splat, blur and slice of a batch of lattices (Adams et al. 2010, section 3).
//
// No atomics: a vertex is the sum of its entries in their order, so that every run gives the same bits.  How
// many entries a vertex has varies a thousandfold (a clear sky falls into a few simplices), so threads share
// out the entries, not the vertices.
#include "cuda/rows.cuh"

DENSECRF_BEGIN

namespace {

constexpr int kEntriesEach = 32;  // entries that are added up one after the other

template <class T>
DENSECRF_HD int64_t entries_of(const Lattice<T>& lattice) {
  return lattice.images * lattice.points * (lattice.dims + 1);
}
template <class T>
int64_t pieces_of(const Lattice<T>& lattice) {
  return (entries_of(lattice) + kEntriesEach - 1) / kEntriesEach;
}

template <class T>
struct FilterSpace {
  T* rows;     // [B, n, stride]
  T* values;   // [M, stride]
  T* others;   // [M, stride]
  T* borders;  // [pieces, 2, stride] sums of the entries at either end of a piece, whose vertex has more
               // elsewhere

  FilterSpace(const Lattice<T>& lattice, int channels, Arena* arena) {
    const int64_t stride = row_stride(channels), points = lattice.images * lattice.points;
    rows = arena->template take<T>(points * stride);
    values = arena->template take<T>(lattice.vertices * stride);
    others = arena->template take<T>(lattice.vertices * stride);
    borders = arena->template take<T>(pieces_of(lattice) * 2 * stride);
  }
};

// Adds up the runs of one vertex in a piece of the entries.  A run that lies in the piece as a whole is the
// value of its vertex; others go to `borders`: [0] what belongs to a vertex of the piece before, [1] to one
// that goes on in the next.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    splat_pieces(Lattice<T> lattice, int packs, const Pack<T, V>* rows, Pack<T, V>* values,
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
      sum.add_scaled(lattice.weights[entry], rows[int64_t(entry / corners) * packs + i]);
      const bool ends = next != v;
      if (ends || e + 1 == end) {
        if (begins && ends)
          values[int64_t(v) * packs + i] = sum;
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
template <class T, int V>
__global__ void __launch_bounds__(kThreads) join_pieces(int64_t vertices, int packs, const int32_t* starts,
                                                        const Pack<T, V>* borders, Pack<T, V>* values) {
  const int64_t v = row_of_thread();
  if (v >= vertices) return;
  const int64_t begin = starts[v], end = starts[v + 1];
  const int64_t first = begin / kEntriesEach, last = (end - 1) / kEntriesEach;
  if (begin < end && first == last) return;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack<T, V> sum{};
    if (begin < end) sum = borders[(2 * first + 1) * packs + i];
    for (int64_t piece = first + 1; piece <= last; ++piece) sum.add(borders[2 * piece * packs + i]);
    values[v * packs + i] = sum;
  }
}

// out = in + blur * (both neighbours along an axis)
template <class T, int V>
__global__ void __launch_bounds__(kThreads) blur_axis(int64_t vertices, int packs, const int32_t* neighbours,
                                                      T blur, const Pack<T, V>* in, Pack<T, V>* out) {
  const int64_t v = row_of_thread();
  if (v >= vertices) return;
  const int64_t lower = neighbours[2 * v], upper = neighbours[2 * v + 1];
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack<T, V> beside{};
    if (lower >= 0) beside.add(in[lower * packs + i]);
    if (upper >= 0) beside.add(in[upper * packs + i]);
    Pack<T, V> sum = in[v * packs + i];
    sum.add_scaled(blur, beside);
    out[v * packs + i] = sum;
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    slice(Lattice<T> lattice, int packs, const Pack<T, V>* values, Pack<T, V>* rows) {
  const int corners = lattice.dims + 1;
  const int64_t point = row_of_thread();
  if (point >= lattice.images * lattice.points) return;
  const int32_t* corner = lattice.corner + point * corners;
  const T* weights = lattice.weights + point * corners;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack<T, V> sum{};
    for (int k = 0; k < corners; ++k) sum.add_scaled(weights[k], values[int64_t(corner[k]) * packs + i]);
    sum.scale(lattice.alpha);
    rows[point * packs + i] = sum;
  }
}

template <class T, int V>
void queue_filter(const Lattice<T>& lattice, const FilterSpace<T>& space, int packs, bool transpose,
                  Queue* queue) {
  const dim3 threads = row_threads(packs);
  const auto as_packs = [](T* values) { return reinterpret_cast<Pack<T, V>*>(values); };
  Pack<T, V>*rows = as_packs(space.rows), *values = as_packs(space.values), *others = as_packs(space.others);
  Pack<T, V>* borders = as_packs(space.borders);
  queue->run(row_blocks(pieces_of(lattice), packs), threads, splat_pieces<T, V>, lattice, packs, rows, values,
             borders);
  const unsigned blocks = row_blocks(lattice.vertices, packs);
  queue->run(blocks, threads, join_pieces<T, V>, lattice.vertices, packs, lattice.starts, borders, values);
  for (int i = 0; i <= lattice.dims; ++i) {
    const int64_t axis = transpose ? lattice.dims - i : i;
    queue->run(blocks, threads, blur_axis<T, V>, lattice.vertices, packs,
               lattice.neighbours + 2 * axis * lattice.vertices, lattice.blur, values, others);
    Pack<T, V>* blurred = others;
    others = values;
    values = blurred;
  }
  queue->run(row_blocks(lattice.images * lattice.points, packs), threads, slice<T, V>, lattice, packs, values,
             rows);
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
  for_pack<T>(stride, [&](auto width) {
    constexpr int V = decltype(width)::value;
    queue_filter<T, V>(lattice, space, stride / V, transpose, &queue);
  });
  queue_store(&queue, lattice.images, channels, lattice.points, space.rows, out);
  return queue.status();
}

template size_t filter_workspace(const Lattice<float>&, int);
template size_t filter_workspace(const Lattice<double>&, int);
template Status filter(const Lattice<float>&, int, const float*, float*, bool, void*, Stream);
template Status filter(const Lattice<double>&, int, const double*, double*, bool, void*, Stream);

DENSECRF_END
