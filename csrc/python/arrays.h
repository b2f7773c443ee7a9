// NumPy arrays as the C++ contract's pointers and sizes.
//
// Arrays must have the right dtype and be C-contiguous: densecrf/_checks.py and densecrf/_ops.py see to that.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <vector>

#include "densecrf.h"
#include "python/memory.h"

namespace py = pybind11;

namespace densecrf {
template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Ints = Array<int32_t>;

template <class T>
const Ops<T>& ops();
template <>
inline const Ops<float>& ops() {
  return backend().f32;
}
template <>
inline const Ops<double>& ops() {
  return backend().f64;
}

inline void check(Status status) {
  switch (status) {
    case Status::kOk:
      return;
    case Status::kOutOfMemory:
      throw std::bad_alloc();
    case Status::kNotFinite:
      throw py::value_error("not finite");
    case Status::kRangeTooLarge:
      throw std::overflow_error("range too large");
    case Status::kTooManyVertices:
      throw std::overflow_error("too many vertices");
    case Status::kInterrupted:
      throw py::error_already_set();
    case Status::kDevice:
      break;  // cuda.cpp makes a sentence of it
  }
}

// Runs a function of the engine without the GIL; what goes wrong becomes an exception.
template <class F>
void without_gil(F&& run) {
  Status status;
  {
    py::gil_scoped_release release;
    status = run();
  }
  check(status);
}

// An array in that memory, which goes with it.
template <class T>
Array<T> array_in(std::unique_ptr<Memory> memory, std::vector<py::ssize_t> shape) {
  py::capsule owner(memory.get(), [](void* held) { delete static_cast<Memory*>(held); });
  T* data = static_cast<T*>(memory.release()->data());
  return Array<T>(std::move(shape), data, owner);
}
// An uninitialised array.
template <class T>
Array<T> empty(std::vector<py::ssize_t> shape) {
  size_t count = 1;
  for (py::ssize_t n : shape) count *= size_t(n);
  if (count * sizeof(T) < kWorthKeeping) return Array<T>(std::move(shape));
  return array_in<T>(std::make_unique<Memory>(count * sizeof(T), For::kArray), std::move(shape));
}
// The first rows of an array.
template <class T>
Array<T> first_rows(const Array<T>& a, int64_t rows) {
  return Array<T>({py::ssize_t(rows), a.shape(1)}, a.data(), a);
}
template <class T>
Array<T> like(const Array<T>& a) {
  return empty<T>(std::vector<py::ssize_t>(a.shape(), a.shape() + a.ndim()));
}

inline void expect(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}
inline void expect_threads(int threads) {
  expect(threads >= 1 && threads <= kMaxThreads, "threads out of range");
}

// (simplex, weights, simplex_vertices, chains, chain_starts, sizes, blur, alpha) of B images of n points
// each: simplex [B n], weights [B n, d+1]; simplex_vertices and chains one image after the other, all numbers
// counted within the image; chain_starts [B, d+2]; sizes [B, 2]: simplices and vertices.
template <class T>
class HeldLattice {
 public:
  explicit HeldLattice(const py::tuple& t)
      : simplex_(t[0].cast<Ints>()),
        simplex_vertices_(t[2].cast<Ints>()),
        chains_(t[3].cast<Ints>()),
        chain_starts_(t[4].cast<Array<int64_t>>()),
        sizes_(t[5].cast<Array<int64_t>>()),
        weights_(t[1].cast<Array<T>>()) {
    expect(simplex_.ndim() == 1 && weights_.ndim() == 2 && simplex_vertices_.ndim() == 2 &&
               chain_starts_.ndim() == 2 && sizes_.ndim() == 2 && sizes_.shape(0) >= 1 &&
               sizes_.shape(1) == 2,
           "lattice arrays have wrong ranks");
    const int64_t images = sizes_.shape(0), corners = weights_.shape(1), points = simplex_.shape(0) / images;
    expect(weights_.shape(0) == simplex_.shape(0) && points * images == simplex_.shape(0) &&
               simplex_vertices_.shape(1) == corners && chain_starts_.shape(0) == images &&
               chain_starts_.shape(1) == corners + 1,
           "lattice arrays have mismatched shapes");
    int64_t simplices = 0, chained = 0;
    for (int64_t b = 0; b < images; ++b) {
      views_.push_back({points, int(corners) - 1, sizes_.at(b, 0), sizes_.at(b, 1),
                        simplex_.data() + b * points, weights_.data() + b * points * corners,
                        simplex_vertices_.data() + simplices * corners, chains_.data() + chained,
                        chain_starts_.data(b), t[6].cast<T>(), t[7].cast<T>()});
      simplices += sizes_.at(b, 0);
      chained += chain_starts_.at(b, corners);
    }
    expect(simplices == simplex_vertices_.shape(0) && chained == chains_.size(),
           "lattice arrays have mismatched shapes");
  }
  HeldLattice(HeldLattice&&) = default;

  int64_t images() const { return int64_t(views_.size()); }
  int64_t points() const { return views_[0].points; }
  int dims() const { return views_[0].dims; }
  const LatticeView<T>& operator[](int64_t image) const { return views_[size_t(image)]; }

 private:
  Ints simplex_, simplex_vertices_, chains_;
  Array<int64_t> chain_starts_, sizes_;
  Array<T> weights_;
  std::vector<LatticeView<T>> views_;
};

template <class T>
struct HeldGrid {
  std::vector<Array<T>> taps;
  GridView<T> view;

  explicit HeldGrid(const py::tuple& t) {
    auto size = t[0].cast<std::vector<int64_t>>();
    auto spacing = t[1].cast<std::vector<int>>();
    taps = t[2].cast<std::vector<Array<T>>>();
    expect(size.size() == kGridAxes && spacing.size() == kGridAxes && taps.size() == kGridAxes,
           "grid wants three axes");
    for (int a = 0; a < kGridAxes; ++a) {
      expect(size[a] >= 1 && spacing[a] >= 1 && taps[a].size() >= 1, "grid sizes must be positive");
      view.size[a] = size[a];
      view.spacing[a] = spacing[a];
      view.radius[a] = int(taps[a].size()) - 1;
      view.taps[a] = taps[a].data();
    }
  }
  int64_t points() const { return view.size[0] * view.size[1] * view.size[2]; }
};

// (size, number of axes that become positions, bandwidths of x, y, z, image or None, bandwidths of channels)
template <class T>
class HeldImage {
 public:
  ImageView<T> view{};

  explicit HeldImage(const py::tuple& t) : channel_sigma_(t[4].cast<std::vector<T>>()) {
    const auto size = t[0].cast<std::vector<int64_t>>();
    const auto spatial_sigma = t[2].cast<std::vector<T>>();
    view.spatial = t[1].cast<int>();
    view.channels = int(channel_sigma_.size());
    view.channel_sigma = channel_sigma_.data();
    expect(size.size() == kGridAxes && spatial_sigma.size() == kGridAxes && view.spatial >= 0 &&
               view.spatial <= kGridAxes,
           "wrong number of axes");
    expect(dims() >= 1, "features have no dimensions");
    for (int a = 0; a < kGridAxes; ++a) {
      expect(size[a] >= 1, "sizes must be positive");
      view.size[a] = size[a];
      view.spatial_sigma[a] = spatial_sigma[a];
    }
    if (view.channels > 0) hold(t[3]);
  }
  HeldImage(const HeldImage&) = delete;
  HeldImage& operator=(const HeldImage&) = delete;

  int64_t points() const { return view.size[0] * view.size[1] * view.size[2]; }
  int dims() const { return view.spatial + view.channels; }

 private:
  void hold(const py::handle& image) {
    view.image_is_uint8 = py::isinstance<py::array_t<uint8_t>>(image);
    if (view.image_is_uint8)
      bytes_ = image.cast<Array<uint8_t>>();
    else
      values_ = image.cast<Array<T>>();
    expect((view.image_is_uint8 ? bytes_.size() : values_.size()) == points() * view.channels,
           "image has the wrong size");
    view.image = view.image_is_uint8 ? static_cast<const void*>(bytes_.data()) : values_.data();
  }

  std::vector<T> channel_sigma_;
  Array<uint8_t> bytes_;
  Array<T> values_;
};

template <class T>
const T* optional(const py::handle& object, int64_t size, std::vector<Array<T>>* keep) {
  if (object.is_none()) return nullptr;
  keep->push_back(object.cast<Array<T>>());
  expect(keep->back().size() == size, "array has the wrong size");
  return keep->back().data();
}

// A coupling: a number, a diagonal [L] or a matrix [L, L].
template <class T>
Weight coupling_of(const py::handle& object, int labels, T* scalar, const T** values,
                   std::vector<Array<T>>* keep) {
  *values = nullptr;
  *scalar = 0;
  if (py::isinstance<py::float_>(object) || py::isinstance<py::int_>(object)) {
    *scalar = object.cast<T>();
    return Weight::kScalar;
  }
  keep->push_back(object.cast<Array<T>>());
  const Array<T>& a = keep->back();
  bool vector = a.ndim() == 1;
  expect(vector ? a.shape(0) == labels : a.ndim() == 2 && a.shape(0) == labels && a.shape(1) == labels,
         "coupling has the wrong shape");
  *values = a.data();
  return vector ? Weight::kVector : Weight::kMatrix;
}

// kernels: tuples (lattice or None, grid or None, norm_in, norm_out, self, coupling), the vectors [B n]
template <class T>
class HeldKernels {
 public:
  HeldKernels(const py::list& kernels, int64_t images, int64_t points, int labels) : points_(points) {
    lattices_.reserve(kernels.size());
    grids_.reserve(kernels.size());
    for (const py::handle& item : kernels) add(item.cast<py::tuple>(), images, labels);
  }
  HeldKernels(const HeldKernels&) = delete;
  HeldKernels& operator=(const HeldKernels&) = delete;
  int size() const { return int(first_.size()); }
  // The kernels on one image.
  std::vector<KernelView<T>> of(int64_t image) const {
    std::vector<KernelView<T>> views = first_;
    for (KernelView<T>& view : views) {
      if (view.lattice) view.lattice += image;
      for (const T** vector : {&view.norm_in, &view.norm_out, &view.self}) {
        if (*vector) *vector += image * points_;
      }
    }
    return views;
  }

 private:
  void add(const py::tuple& kernel, int64_t images, int labels) {
    KernelView<T> view{};
    if (!kernel[0].is_none()) {
      lattices_.emplace_back(kernel[0].cast<py::tuple>());
      view.lattice = &lattices_.back()[0];
      expect(lattices_.back().images() == images && lattices_.back().points() == points_,
             "lattice and unary differ in the number of points");
    } else {
      grids_.emplace_back(kernel[1].cast<py::tuple>());
      view.grid = &grids_.back().view;
      expect(grids_.back().points() == points_, "grid and unary differ in the number of points");
      for (int a = 0; a < kGridAxes; ++a)
        expect(grids_.front().view.size[a] == view.grid->size[a], "grids differ in size");
    }
    view.norm_in = optional<T>(kernel[2], images * points_, &keep_);
    view.norm_out = optional<T>(kernel[3], images * points_, &keep_);
    view.self = optional<T>(kernel[4], images * points_, &keep_);
    view.coupling_kind = coupling_of<T>(kernel[5], labels, &view.coupling, &view.couplings, &keep_);
    first_.push_back(view);
  }

  int64_t points_;
  std::vector<Array<T>> keep_;
  std::vector<HeldLattice<T>> lattices_;
  std::vector<HeldGrid<T>> grids_;
  std::vector<KernelView<T>> first_;  // on the first image
};

// The functions of training.cpp.
template <class T>
void define_training(py::module_ m);

// Those of cuda.cpp, in a build with CUDA.
void define_cuda(py::module_ m);

}  // namespace densecrf
