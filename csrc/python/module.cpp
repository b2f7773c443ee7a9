// The only file that sees pybind11: arrays become pointers and sizes, the GIL is released, statuses become
// exceptions.
//
// _C.f32 and _C.f64 hold the same functions for the two precisions.  Arrays must have the right dtype and be
// C-contiguous: densecrf/_native.py sees to that.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/backends.h"
#include "cpu/memory.h"
#include "densecrf.h"

namespace py = pybind11;
using namespace densecrf;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Ints = Array<int32_t>;

template <class T>
const Ops<T>& ops();
template <>
const Ops<float>& ops() {
  return backend().f32;
}
template <>
const Ops<double>& ops() {
  return backend().f64;
}

void check(Status status) {
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
  }
}

// Scratch memory that its owner may keep between calls.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(data_); }

  void* reserve(size_t bytes) {
    if (bytes <= bytes_) return data_;
    std::free(data_);
    bytes_ = 0;
    data_ = allocate(bytes);
    if (!data_) throw std::bad_alloc();
    bytes_ = bytes;
    return data_;
  }
  size_t size() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

void expect(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}
void expect_threads(int threads) { expect(threads >= 1 && threads <= kMaxThreads, "threads out of range"); }

// (simplex, weights, simplex_vertices, chains, chain_starts, number of vertices, blur, alpha)
template <class T>
struct HeldLattice {
  Ints simplex, simplex_vertices, chains;
  Array<int64_t> chain_starts;
  Array<T> weights;
  LatticeView<T> view;

  explicit HeldLattice(const py::tuple& t)
      : simplex(t[0].cast<Ints>()),
        simplex_vertices(t[2].cast<Ints>()),
        chains(t[3].cast<Ints>()),
        chain_starts(t[4].cast<Array<int64_t>>()),
        weights(t[1].cast<Array<T>>()) {
    expect(simplex.ndim() == 1 && weights.ndim() == 2 && simplex_vertices.ndim() == 2,
           "lattice arrays have wrong ranks");
    view.points = simplex.shape(0);
    view.dims = int(weights.shape(1)) - 1;
    view.simplices = simplex_vertices.shape(0);
    view.vertices = t[5].cast<int64_t>();
    expect(weights.shape(0) == view.points && simplex_vertices.shape(1) == view.dims + 1 &&
               chain_starts.size() == view.dims + 2 && chains.size() == chain_starts.at(view.dims + 1),
           "lattice arrays have mismatched shapes");
    view.simplex = simplex.data();
    view.weights = weights.data();
    view.simplex_vertices = simplex_vertices.data();
    view.chains = chains.data();
    view.chain_starts = chain_starts.data();
    view.blur = t[6].cast<T>();
    view.alpha = t[7].cast<T>();
  }
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

template <class T>
const T* optional(const py::handle& object, int64_t size, std::vector<Array<T>>* keep) {
  if (object.is_none()) return nullptr;
  keep->push_back(object.cast<Array<T>>());
  expect(keep->back().size() == size, "array has the wrong size");
  return keep->back().data();
}

// A number, a vector [L] or a matrix [L, L].
template <class T>
Weight weight_of(const py::handle& object, int labels, T* scalar, const T** values,
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
         "weight has the wrong shape");
  *values = a.data();
  return vector ? Weight::kVector : Weight::kMatrix;
}

template <class T>
Array<T> make_features(const std::vector<int64_t>& size, int spatial, const std::vector<T>& spatial_sigma,
                       const py::object& image, const std::vector<T>& channel_sigma, int threads) {
  expect(
      size.size() == kGridAxes && spatial_sigma.size() == kGridAxes && spatial >= 0 && spatial <= kGridAxes,
      "wrong number of axes");
  expect_threads(threads);
  const int64_t points = size[0] * size[1] * size[2];
  const int channels = int(channel_sigma.size());
  FeatureRequest<T> request{};
  for (int a = 0; a < kGridAxes; ++a) {
    request.size[a] = size[a];
    request.spatial_sigma[a] = spatial_sigma[a];
  }
  request.spatial = spatial;
  request.channels = channels;
  request.channel_sigma = channel_sigma.data();
  request.threads = threads;
  Array<uint8_t> bytes;
  Array<T> values;
  if (channels > 0) {
    request.image_is_uint8 = py::isinstance<py::array_t<uint8_t>>(image);
    if (request.image_is_uint8)
      bytes = image.cast<Array<uint8_t>>();
    else
      values = image.cast<Array<T>>();
    expect((request.image_is_uint8 ? bytes.size() : values.size()) == points * channels,
           "image has the wrong size");
    request.image = request.image_is_uint8 ? static_cast<const void*>(bytes.data()) : values.data();
  }
  Array<T> features({points, int64_t(spatial + channels)});
  request.features = features.mutable_data();
  py::gil_scoped_release release;
  ops<T>().make_features(request);
  return features;
}

template <class T>
py::tuple lattice_build(const Array<T>& features, double scale, bool pad_origin, bool bridges, int threads) {
  expect(features.ndim() == 2 && features.shape(0) >= 1, "features must be [N, d]");
  expect(features.shape(1) >= 1 && features.shape(1) <= kMaxDims, "features have too many dimensions");
  expect_threads(threads);
  const int64_t points = features.shape(0), corners = features.shape(1) + 1;
  Ints simplex(points);
  Array<T> weights({points, corners});
  LatticeRequest<T> request{features.data(),
                            points,
                            int(corners) - 1,
                            scale,
                            pad_origin,
                            bridges,
                            threads,
                            simplex.mutable_data(),
                            weights.mutable_data()};
  struct Owner {
    LatticeTables* tables = nullptr;
    ~Owner() {
      if (tables) ops<T>().lattice_free(tables);
    }
  } owner;
  Status status;
  {
    py::gil_scoped_release release;
    status = ops<T>().lattice_build(request, &owner.tables);
  }
  check(status);
  LatticeSizes sizes = ops<T>().lattice_sizes(owner.tables);
  Ints simplex_vertices({sizes.simplices, corners});
  Ints chains(sizes.chained);
  Array<int64_t> chain_starts(corners + 1);
  {
    int32_t* v = simplex_vertices.mutable_data();
    int32_t* c = chains.mutable_data();
    int64_t* starts = chain_starts.mutable_data();
    py::gil_scoped_release release;
    ops<T>().lattice_export(owner.tables, threads, v, c, starts);
  }
  return py::make_tuple(simplex, weights, simplex_vertices, chains, chain_starts, sizes.vertices);
}

template <class T>
Array<T> lattice_self(const py::tuple& lattice, int threads) {
  HeldLattice<T> held(lattice);
  expect_threads(threads);
  Array<T> out(held.view.points);
  T* data = out.mutable_data();
  Status status;
  {
    py::gil_scoped_release release;
    status = ops<T>().lattice_self(held.view, threads, data);
  }
  check(status);
  return out;
}

template <class T>
Array<T> filter(const py::tuple& lattice, const Array<T>& values, bool transpose, int threads) {
  HeldLattice<T> held(lattice);
  expect_threads(threads);
  expect(values.ndim() == 2 && values.shape(1) == held.view.points, "values must be [C, N]");
  const int channels = int(values.shape(0));
  Array<T> out({values.shape(0), values.shape(1)});
  Workspace workspace;
  void* space = workspace.reserve(ops<T>().filter_workspace(held.view, channels, threads));
  const T* from = values.data();
  T* to = out.mutable_data();
  Status status;
  {
    py::gil_scoped_release release;
    status = ops<T>().filter(held.view, channels, from, to, transpose, threads, space);
  }
  check(status);
  return out;
}

template <class T>
Array<T> grid_filter(const py::tuple& grid, const Array<T>& values, int threads) {
  HeldGrid<T> held(grid);
  expect_threads(threads);
  expect(values.ndim() == 2 && values.shape(1) == held.points(), "values must be [C, N]");
  const int channels = int(values.shape(0));
  Array<T> out({values.shape(0), values.shape(1)});
  Workspace workspace;
  void* space = workspace.reserve(ops<T>().grid_filter_workspace(held.view, channels, threads));
  const T* from = values.data();
  T* to = out.mutable_data();
  Status status;
  {
    py::gil_scoped_release release;
    status = ops<T>().grid_filter(held.view, channels, from, to, threads, space);
  }
  check(status);
  return out;
}

// Lets Ctrl-C through and tells the caller's callback how far the run is.
bool checkpoint(void* data, int done) {
  py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) return false;
  const auto* progress = static_cast<const py::object*>(data);
  if (progress->is_none()) return true;
  PyObject* result = PyObject_CallFunction(progress->ptr(), "i", done);
  Py_XDECREF(result);
  return result != nullptr;
}

// kernels: tuples (lattice or None, grid or None, norm_in, norm_out, self, weight)
template <class T>
py::tuple mean_field(Workspace& workspace, const Array<T>& unary, T unary_sign, const py::object& initial,
                     const py::list& kernels, const py::object& compatibility, int iterations, T damping,
                     T tolerance, const py::object& mask, bool free_energy, int threads,
                     const py::object& progress) {
  expect(unary.ndim() == 2 && unary.size() > 0, "unary must be [L, N]");
  expect_threads(threads);
  expect(iterations >= 0, "iterations must not be negative");
  MeanFieldRequest<T> request{};
  request.labels = int(unary.shape(0));
  request.points = unary.shape(1);
  request.unary = unary.data();
  request.unary_sign = unary_sign;
  std::vector<Array<T>> keep;
  keep.reserve(3 + 4 * kernels.size());
  request.initial = optional<T>(initial, unary.size(), &keep);
  std::vector<HeldLattice<T>> lattices;
  std::vector<HeldGrid<T>> grids;
  std::vector<KernelView<T>> views;
  lattices.reserve(kernels.size());
  grids.reserve(kernels.size());
  for (const py::handle& item : kernels) {
    auto kernel = item.cast<py::tuple>();
    KernelView<T> view{};
    if (!kernel[0].is_none()) {
      lattices.emplace_back(kernel[0].cast<py::tuple>());
      view.lattice = &lattices.back().view;
      expect(view.lattice->points == request.points, "lattice and unary differ in the number of points");
    } else {
      grids.emplace_back(kernel[1].cast<py::tuple>());
      view.grid = &grids.back().view;
      expect(grids.back().points() == request.points, "grid and unary differ in the number of points");
    }
    view.norm_in = optional<T>(kernel[2], request.points, &keep);
    view.norm_out = optional<T>(kernel[3], request.points, &keep);
    view.self = optional<T>(kernel[4], request.points, &keep);
    view.weight_kind = weight_of<T>(kernel[5], request.labels, &view.weight, &view.weights, &keep);
    views.push_back(view);
  }
  request.kernels = views.data();
  request.num_kernels = int(views.size());
  request.compat_kind = weight_of<T>(compatibility, request.labels, &request.compat, &request.compats, &keep);
  request.iterations = iterations;
  request.damping = damping;
  request.tolerance = tolerance;
  Array<uint8_t> mask_bytes;
  if (!mask.is_none()) {
    mask_bytes = mask.cast<Array<uint8_t>>();
    expect(mask_bytes.size() == request.points, "mask has the wrong size");
    request.mask = mask_bytes.data();
  }
  Array<T> probs({unary.shape(0), unary.shape(1)});
  request.probs = probs.mutable_data();
  std::vector<double> energies(free_energy ? size_t(iterations) + 1 : 0);
  request.free_energy = free_energy ? energies.data() : nullptr;
  request.threads = threads;
  request.checkpoint = checkpoint;
  request.checkpoint_data = const_cast<py::object*>(&progress);
  void* space = workspace.reserve(ops<T>().mean_field_workspace(request));
  Status status;
  {
    py::gil_scoped_release release;
    status = ops<T>().mean_field(request, space);
  }
  check(status);
  py::object energy = py::none();
  if (free_energy) energy = Array<double>(int64_t(request.iterations_done) + 1, energies.data());
  return py::make_tuple(probs, request.iterations_done, energy);
}

template <class T>
void define(py::module_ m) {
  m.def("make_features", &make_features<T>);
  m.def("lattice_build", &lattice_build<T>);
  m.def("lattice_self", &lattice_self<T>);
  m.def("filter", &filter<T>);
  m.def("grid_filter", &grid_filter<T>);
  m.def("mean_field", &mean_field<T>);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("__version__") = DENSECRF_VERSION;
  m.attr("MAX_DIMS") = kMaxDims;
  m.attr("MAX_THREADS") = kMaxThreads;
  m.def("simd", [] { return backend().name; });
  py::class_<Workspace>(m, "Workspace").def(py::init<>()).def_property_readonly("nbytes", &Workspace::size);
  define<float>(m.def_submodule("f32"));
  define<double>(m.def_submodule("f64"));
}
