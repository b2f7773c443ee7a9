// Building the lattice of a batch of images by sorting.
//
// Every entry gets the key of its vertex.  Sorted by key, the entries of a vertex lie side by side, and
// counting where a key differs from the one before numbers the vertices.  Bridges are found in the same way
// among the keys of all that might be one.  A neighbour is a binary search for the key one step up.  So
// nothing depends on which thread comes first, and numbers follow the keys, which keeps neighbours on the
// lattice near each other in memory.
#include "core/bridges.h"
#include "cuda/lattice_build.cuh"
#include "cuda/sort.h"

DENSECRF_BEGIN

namespace {

// Sorted keys, each once.
template <class K>
struct KeyTable {
  const K* keys;
  int32_t count;

  // The key's number, or -1.
  __device__ int32_t find(K key) const {
    int32_t low = 0, high = count;
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      if (keys[middle] < key)
        low = middle + 1;
      else
        high = middle;
    }
    return low < count && keys[low] == key ? low : -1;
  }
};

// ---- points

// Weights and keys of the corners of a point's simplex; after the points, keys of the origin's in every
// image.
template <class T, class C, class K, int D>
__global__ void __launch_bounds__(kThreads)
    embed(int images, int64_t points, const T* features, int64_t all, Elevation<C> elevation, KeyCode<K> code,
          T* weights, K* keys) {
  const int64_t p = index_of_thread();
  if (p >= all) return;
  const bool point = p < images * points;
  const int d = D ? D : elevation.dims;
  T at[D ? D : kMaxDims];
  for (int j = 0; j < d; ++j) at[j] = point ? features[p * d + j] : T(0);
  Simplex<C, D, 1> simplex;
  elevation.template locate<D>(at, &simplex);
  K corners[(D ? D : kMaxDims) + 1];
  int axes[(D ? D : kMaxDims) + 1];
  simplex.vertex_keys(d, code, 0, corners, axes);
  const K image = K(point ? p / points : p - images * points) * code.image;
  for (int k = 0; k <= d; ++k) keys[p * (d + 1) + k] = (corners[k] + image) & code.mask;
  for (int k = 0; k <= d && point; ++k) weights[p * (d + 1) + k] = T(simplex.weight[k][0]);
}

__global__ void __launch_bounds__(kThreads) number(int64_t count, int32_t* numbers) {
  const int64_t i = index_of_thread();
  if (i < count) numbers[i] = int32_t(i);
}

// ---- corners

// counts[i] = 1 where a key begins that `known` lacks.
template <class K>
__global__ void __launch_bounds__(kThreads)
    mark_new(int64_t count, const K* keys, const K* known, const int32_t* known_count, int32_t* counts) {
  const int64_t i = index_of_thread();
  if (i >= count) return;
  const bool begins = i == 0 || keys[i] != keys[i - 1];
  counts[i] = begins && (!known || KeyTable<K>{known, *known_count}.find(keys[i]) < 0);
}
// Whether it was 1 before counts were added up.
__device__ inline bool is_new(const int32_t* counts, int64_t i) {
  return counts[i] != (i ? counts[i - 1] : 0);
}

// starts: of each corner, in `sorted`.
template <class K>
__global__ void __launch_bounds__(kThreads)
    number_corners(int64_t entries, int64_t entries_of_image, const K* keys, const int32_t* counts,
                   const int32_t* sorted, int32_t* corner, K* corner_keys, int32_t* starts,
                   int32_t* corners_of_image, int32_t* found) {
  const int64_t i = index_of_thread();
  if (i >= entries) return;
  const int32_t entry = sorted[i], vertex = counts[i] - 1;
  corner[entry] = vertex;
  if (is_new(counts, i)) {
    corner_keys[vertex] = keys[i];
    starts[vertex] = int32_t(i);
    atomicAdd(&corners_of_image[entry / entries_of_image], 1);
  }
  if (i + 1 == entries) *found = vertex + 1;
}

// Corners of the origin's simplex that are no point's count, too.
template <class K>
__global__ void __launch_bounds__(kThreads)
    count_origin(int64_t count, int corners, const K* keys, const K* corner_keys, const int32_t* found,
                 int32_t* corners_of_image) {
  const int64_t i = index_of_thread();
  if (i < count && KeyTable<K>{corner_keys, *found}.find(keys[i]) < 0)
    atomicAdd(&corners_of_image[i / corners], 1);
}

// ---- bridges

// Keys of all bridges that simplices ask for: two for each entry, of which the second may be a corner's
// instead; then the origin's corners, as vertices that are no point's.
template <class K>
__global__ void __launch_bounds__(kThreads)
    propose(int images, int64_t points, int corners, int64_t all, const K* keys, K mask,
            const int32_t* corners_of_image, K* proposed) {
  const int64_t i = index_of_thread(), entries = images * points * corners;
  if (i >= all) return;
  const int k = int(i % corners);
  // A step up along an axis is the difference of the two corners that the simplex has along it.
  const auto above = [&](int step) {
    const K* simplex = keys + i - k;
    return (keys[i] + simplex[(k + step + 1) % corners] - simplex[(k + step) % corners]) & mask;
  };
  const int64_t image = i < entries ? i / (points * corners) : (i - entries) / corners;
  proposed[i] = above(kSecondStep);
  proposed[all + i] = is_sparse(corners_of_image[image], points) ? above(kFourthStep) : keys[i];
  if (i >= entries) proposed[all + i + all - entries] = keys[i];
}

template <class K>
__global__ void __launch_bounds__(kThreads)
    keep_new(int64_t count, const K* keys, const int32_t* counts, K* kept, int32_t* found) {
  const int64_t i = index_of_thread();
  if (i >= count) return;
  if (is_new(counts, i)) kept[counts[i] - 1] = keys[i];
  if (i + 1 == count) *found = counts[i];
}

// ---- links

// neighbours, [d+1, M, 2], come in as -1.
template <class K>
__global__ void __launch_bounds__(kThreads)
    link(KeyTable<K> corners, KeyTable<K> bridges, KeyCode<K> code, int32_t* neighbours) {
  const int64_t v = index_of_thread(), vertices = int64_t(corners.count) + bridges.count;
  if (v >= vertices) return;
  const K key = v < corners.count ? corners.keys[v] : bridges.keys[v - corners.count];
  const int axis = int(blockIdx.y);
  const K wanted = (key + code.step[axis]) & code.mask;
  int32_t upper = corners.find(wanted);
  if (upper < 0) {
    upper = bridges.find(wanted);
    if (upper < 0) return;
    upper += corners.count;
  }
  int32_t* of_axis = neighbours + 2 * axis * vertices;
  of_axis[2 * v + 1] = upper;
  of_axis[2 * int64_t(upper)] = int32_t(v);
}

__global__ void __launch_bounds__(kThreads) fill_starts(int64_t corners, int64_t vertices, int64_t entries,
                                                        const int32_t* of_corners, int32_t* starts) {
  const int64_t v = index_of_thread();
  if (v <= vertices) starts[v] = v < corners ? of_corners[v] : int32_t(entries);
}

// ---- all together

template <class T, class K>
class Builder {
 public:
  Builder(const BuildRequest<T>& request, void* workspace)
      : request_(request),
        corners_(request.dims + 1),
        entries_(request.images * request.points * corners_),
        all_(entries_ + (request.pad_origin ? request.images * corners_ : 0)),
        proposals_((request.bridges ? 2 * all_ : 0) + all_ - entries_) {
    const Extent extent = extent_of(request);
    make_code(request.dims, extent.lo, extent.hi, request.images, true, &code_);
    Arena arena(workspace);
    keys_ = arena.take<K>(all_);
    sorted_keys_ = arena.take<K>(entries_);
    numbers_ = arena.take<int32_t>(entries_);
    counts_ = arena.take<int32_t>(entries_);
    corner_keys_ = arena.take<K>(entries_);
    starts_ = arena.take<int32_t>(entries_);
    corners_of_image_ = arena.take<int32_t>(request.images);
    proposed_ = arena.take<K>(proposals_);
    sorted_proposals_ = arena.take<K>(proposals_);
    proposal_counts_ = arena.take<int32_t>(proposals_);
    sorter_bytes_ = sort_workspace<K>(entries_ < proposals_ ? proposals_ : entries_, code_.bits);
    sorter_ = arena.take<char>(int64_t(sorter_bytes_));
    bytes_ = arena.bytes();
  }
  size_t bytes() const { return bytes_; }

  Status vertices(T* weights, int32_t* corner, int32_t* sorted, int32_t* found, Queue* queue) {
    embed_points(weights, queue);
    find_corners(corner, sorted, found, queue);
    queue->fill(found + 1, 0, sizeof(int32_t));
    if (proposals_) find_bridges(found, queue);
    return queue->status();
  }

  Status links(int64_t corners, int64_t bridges, int32_t* starts, int32_t* neighbours, Queue* queue) {
    const int64_t vertices = corners + bridges;
    if (vertices > INT32_MAX) return Status::kTooManyVertices;
    run_for(queue, vertices + 1, fill_starts, corners, vertices, entries_, starts_, starts);
    queue->fill(neighbours, -1, size_t(2 * corners_ * vertices) * sizeof(int32_t));
    queue->run(dim3(blocks_for(vertices, kThreads), unsigned(corners_)), kThreads, link<K>,
               KeyTable<K>{corner_keys_, int32_t(corners)}, KeyTable<K>{bridge_keys(), int32_t(bridges)},
               code_, neighbours);
    return queue->status();
  }

 private:
  void embed_points(T* weights, Queue* queue) {
    for_arithmetic(request_, [&](auto arithmetic, auto dims) {
      using C = decltype(arithmetic);
      run_for(queue, all_ / corners_, embed<T, C, K, decltype(dims)::value>, request_.images, request_.points,
              request_.features, all_ / corners_, Elevation<C>(request_.dims, request_.scale), code_, weights,
              keys_);
    });
  }

  void find_corners(int32_t* corner, int32_t* sorted, int32_t* found, Queue* queue) {
    run_for(queue, entries_, number, entries_, numbers_);
    queue->check(sort_pairs(entries_, code_.bits, keys_, sorted_keys_, numbers_, sorted, sorter_,
                            sorter_bytes_, queue->stream()));
    run_for(queue, entries_, mark_new<K>, entries_, sorted_keys_, nullptr, nullptr, counts_);
    queue->check(add_up(entries_, counts_, sorter_, sorter_bytes_, queue->stream()));
    queue->fill(corners_of_image_, 0, size_t(request_.images) * sizeof(int32_t));
    run_for(queue, entries_, number_corners<K>, entries_, request_.points * corners_, sorted_keys_, counts_,
            sorted, corner, corner_keys_, starts_, corners_of_image_, found);
  }

  void find_bridges(int32_t* found, Queue* queue) {
    const K* origin = keys_ + entries_;
    if (request_.bridges) {
      run_for(queue, all_ - entries_, count_origin<K>, all_ - entries_, corners_, origin, corner_keys_, found,
              corners_of_image_);
      run_for(queue, all_, propose<K>, request_.images, request_.points, corners_, all_, keys_, code_.mask,
              corners_of_image_, proposed_);
    }
    queue->check(sort_keys(proposals_, code_.bits, request_.bridges ? proposed_ : origin, sorted_proposals_,
                           sorter_, sorter_bytes_, queue->stream()));
    run_for(queue, proposals_, mark_new<K>, proposals_, sorted_proposals_, corner_keys_, found,
            proposal_counts_);
    queue->check(add_up(proposals_, proposal_counts_, sorter_, sorter_bytes_, queue->stream()));
    run_for(queue, proposals_, keep_new<K>, proposals_, sorted_proposals_, proposal_counts_, bridge_keys(),
            found + 1);
  }
  // Proposals are not needed once they are sorted.
  K* bridge_keys() const { return proposed_; }

  const BuildRequest<T>& request_;
  int corners_;  // of a simplex
  int64_t entries_, all_ /* with the origin's in every image */, proposals_;
  KeyCode<K> code_;
  K* keys_;         // [all]
  K* sorted_keys_;  // [entries]
  int32_t *numbers_, *counts_;
  K* corner_keys_;
  int32_t* starts_;
  int32_t* corners_of_image_;
  K *proposed_, *sorted_proposals_;
  int32_t* proposal_counts_;
  void* sorter_;
  size_t sorter_bytes_, bytes_;
};

// Calls f(builder) with the narrowest keys that hold the range.
template <class T, class F>
auto with_builder(const BuildRequest<T>& request, void* workspace, F f) {
  const Extent extent = extent_of(request);
  KeyCode<Key64> narrow;
  if (make_code(request.dims, extent.lo, extent.hi, request.images, false, &narrow))
    return f(Builder<T, Key64>(request, workspace));
  return f(Builder<T, Key128>(request, workspace));
}

}  // namespace

template <class T>
size_t build_vertices_workspace(const BuildRequest<T>& request) {
  return with_builder(request, nullptr, [](auto builder) { return builder.bytes(); });
}

template <class T>
Status build_vertices(const BuildRequest<T>& request, T* weights, int32_t* corner, int32_t* sorted,
                      int32_t* found, void* workspace, Stream stream) {
  Queue queue(stream);
  return with_builder(request, workspace,
                      [&](auto builder) { return builder.vertices(weights, corner, sorted, found, &queue); });
}

template <class T>
Status build_links(const BuildRequest<T>& request, int64_t corners, int64_t bridges, int32_t* starts,
                   int32_t* neighbours, void* workspace, Stream stream) {
  Queue queue(stream);
  return with_builder(request, workspace, [&](auto builder) {
    return builder.links(corners, bridges, starts, neighbours, &queue);
  });
}

template size_t build_vertices_workspace(const BuildRequest<float>&);
template size_t build_vertices_workspace(const BuildRequest<double>&);
template Status build_vertices(const BuildRequest<float>&, float*, int32_t*, int32_t*, int32_t*, void*,
                               Stream);
template Status build_vertices(const BuildRequest<double>&, double*, int32_t*, int32_t*, int32_t*, void*,
                               Stream);
template Status build_links(const BuildRequest<float>&, int64_t, int64_t, int32_t*, int32_t*, void*, Stream);
template Status build_links(const BuildRequest<double>&, int64_t, int64_t, int32_t*, int32_t*, void*, Stream);

DENSECRF_END
