// What the features of a build span, and whether a lattice of them can be built.
#include "cuda/fold.cuh"
#include "cuda/lattice_build.cuh"

DENSECRF_BEGIN

namespace {

template <class T>
struct Span {
  T lo, hi;
};

// NaN where a value is not finite: neither operand of a comparison that fails is lost.
template <class T>
struct ExtentFold {
  using Value = Span<T>;
  const T* features;
  int dims;
  T* extent;

  DENSECRF_HD Value none() const { return {T(INFINITY), T(-INFINITY)}; }
  DENSECRF_HD Value read(int64_t row, int column) const {
    const T x = features[row * dims + column];
    return x - x == 0 ? Value{x, x} : Value{T(NAN), T(NAN)};
  }
  DENSECRF_HD Value both(Value a, Value b) const {
    return {a.lo <= b.lo || a.lo != a.lo ? a.lo : b.lo, a.hi >= b.hi || a.hi != a.hi ? a.hi : b.hi};
  }
  DENSECRF_HD void keep(int column, Value value) const {
    extent[column] = value.lo;
    extent[dims + column] = value.hi;
  }
};

template <class T>
struct ExtentSpace {
  Span<T>* partials;

  ExtentSpace(const BuildRequest<T>& request, Arena* arena) {
    partials = arena->template take<Span<T>>(fold_values(request.dims));
  }
};

}  // namespace

template <class T>
size_t build_extent_workspace(const BuildRequest<T>& request) {
  Arena arena(nullptr);
  ExtentSpace<T> space(request, &arena);
  return arena.bytes();
}

template <class T>
Status build_extent(const BuildRequest<T>& request, T* extent, void* workspace, Stream stream) {
  Arena arena(workspace);
  const ExtentSpace<T> space(request, &arena);
  Queue queue(stream);
  queue_fold(&queue, ExtentFold<T>{request.features, request.dims, extent}, request.images * request.points,
             request.dims, space.partials);
  return queue.status();
}

template <class T>
Status check_build(const BuildRequest<T>& request) {
  for (int j = 0; j < request.dims; ++j) {
    if (!(request.lo[j] <= request.hi[j])) return Status::kNotFinite;
  }
  const int64_t corners = request.dims + 1, entries = request.images * (request.points + 1) * corners;
  // Places for bridges are the most that is counted in 31 bits: two for each entry, those of the origin too,
  // and one for each of the origin's corners.
  const int64_t most = request.bridges ? 2 * entries + request.images * corners : entries;
  if (most > INT32_MAX) return Status::kTooManyVertices;
  return check_extent(extent_of(request));
}

template size_t build_extent_workspace(const BuildRequest<float>&);
template size_t build_extent_workspace(const BuildRequest<double>&);
template Status build_extent(const BuildRequest<float>&, float*, void*, Stream);
template Status build_extent(const BuildRequest<double>&, double*, void*, Stream);
template Status check_build(const BuildRequest<float>&);
template Status check_build(const BuildRequest<double>&);

DENSECRF_END
