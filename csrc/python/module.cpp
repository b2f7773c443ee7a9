// The binding: arrays become pointers and sizes, the GIL is released, statuses become exceptions.  Only this
// folder sees pybind11.
//
// _C.f32 and _C.f64 hold the same functions for the two precisions; so do _C.cuda.f32 and _C.cuda.f64, which
// are there where csrc/cuda is compiled in.
#include <cstring>
#include <utility>

#include "python/arrays.h"
#include "python/batch.h"

using namespace densecrf;

namespace {

template <class T>
Array<T> make_features(const py::tuple& image, int threads) {
  const HeldImage<T> held(image);
  expect_threads(threads);
  Array<T> features = empty<T>({held.points(), held.dims()});
  T* to = features.mutable_data();
  without_gil([&] { return ops<T>().make_features(held.view, threads, to); });
  return features;
}

// What the builds of a batch found.
class Builds {
 public:
  explicit Builds(int64_t images) : results_(size_t(images)) {}
  Builds(const Builds&) = delete;
  Builds& operator=(const Builds&) = delete;
  ~Builds() {
    for (const LatticeResult& result : results_) release(result.chains);
  }
  LatticeResult& operator[](int64_t image) { return results_[size_t(image)]; }

  // The images' chains, of these lengths, one after the other; called once.
  Ints chains(const std::vector<int64_t>& lengths) {
    int64_t total = 0;
    for (int64_t length : lengths) total += length;
    if (results_.size() == 1) {
      auto memory = std::make_unique<Memory>(results_[0].chains);
      results_[0].chains = {};
      return array_in<int32_t>(std::move(memory), {total});
    }
    Ints all = empty<int32_t>({total});
    int32_t* to = all.mutable_data();
    for (size_t b = 0; b < results_.size(); ++b) {
      if (lengths[b] > 0) std::memcpy(to, results_[b].chains.data, size_t(lengths[b]) * sizeof(int32_t));
      to += lengths[b];
    }
    return all;
  }

 private:
  std::vector<LatticeResult> results_;
};

// How the lattices of a batch are built, but for the points.
struct BatchBuild {
  int64_t images, points, dims;
  double scale;
  bool pad_origin, bridges;
  int threads;

  // give(b, &request) says what the points of image b are.
  template <class T, class F>
  py::tuple build(F&& give) const {
    expect_threads(threads);
    const int64_t corners = dims + 1, room = (points + 1) * corners;
    Ints simplex = empty<int32_t>({images * points}),
         vertices = empty<int32_t>({images * (points + 1), corners});
    Array<T> weights = empty<T>({images * points, corners});
    Array<int64_t> chain_starts({images, corners + 1}), sizes({images, int64_t(2)});
    int32_t *to_simplex = simplex.mutable_data(), *to_vertices = vertices.mutable_data();
    T* to_weights = weights.mutable_data();
    int64_t* to_starts = chain_starts.mutable_data();
    Builds builds(images);
    for_images(images, threads, [&](int64_t b, Place& place) {
      LatticeRequest<T> request{};
      give(b, &request);
      request.points = points;
      request.dims = int(dims);
      request.scale = scale;
      request.pad_origin = pad_origin;
      request.bridges = bridges;
      request.threads = place.threads;
      request.simplex = to_simplex + b * points;
      request.weights = to_weights + b * points * corners;
      request.simplex_vertices = to_vertices + b * room;
      request.chain_starts = to_starts + b * (corners + 1);
      return ops<T>().lattice_build(request, &builds[b]);
    });
    int64_t simplices = 0;
    std::vector<int64_t> chained;
    for (int64_t b = 0; b < images; ++b) {
      const LatticeResult& found = builds[b];
      sizes.mutable_at(b, 0) = found.simplices;
      sizes.mutable_at(b, 1) = found.vertices;
      std::memmove(to_vertices + simplices * corners, to_vertices + b * room,
                   size_t(found.simplices * corners) * sizeof(int32_t));
      simplices += found.simplices;
      chained.push_back(chain_starts.at(b, corners));
    }
    return py::make_tuple(simplex, weights, first_rows(vertices, simplices), builds.chains(chained),
                          chain_starts, sizes);
  }
};

template <class T>
py::tuple lattice_build(const Array<T>& features, double scale, bool pad_origin, bool bridges, int threads) {
  expect(features.ndim() == 3 && features.shape(0) >= 1 && features.shape(1) >= 1,
         "features must be [B, n, d]");
  expect(features.shape(2) >= 1 && features.shape(2) <= kMaxDims, "features have too many dimensions");
  const BatchBuild batch{
      features.shape(0), features.shape(1), features.shape(2), scale, pad_origin, bridges, threads};
  const T* from = features.data();
  const int64_t step = batch.points * batch.dims;
  return batch.build<T>([=](int64_t b, LatticeRequest<T>* request) { request->features = from + b * step; });
}

// Of the features of one image, which are not stored.
template <class T>
py::tuple lattice_of_image(const py::tuple& image, double scale, bool pad_origin, bool bridges, int threads) {
  const HeldImage<T> held(image);
  expect(held.dims() <= kMaxDims, "features have too many dimensions");
  const BatchBuild batch{1, held.points(), held.dims(), scale, pad_origin, bridges, threads};
  return batch.build<T>([&](int64_t, LatticeRequest<T>* request) { request->image = &held.view; });
}

template <class T>
Array<T> lattice_self(const py::tuple& lattice, int threads) {
  HeldLattice<T> held(lattice);
  expect_threads(threads);
  Array<T> out = empty<T>({held.images() * held.points()});
  T* to = out.mutable_data();
  for_images(held.images(), threads, [&](int64_t b, Place& place) {
    return ops<T>().lattice_self(held[b], place.threads, to + b * held.points());
  });
  return out;
}

template <class T>
Array<T> filter(const py::tuple& lattice, const Array<T>& values, bool transpose, int threads) {
  HeldLattice<T> held(lattice);
  expect_threads(threads);
  expect(values.ndim() == 3 && values.shape(0) == held.images() && values.shape(2) == held.points(),
         "values must be [B, C, n]");
  const int channels = int(values.shape(1));
  const int64_t step = channels * held.points();
  Array<T> out = like(values);
  const T* from = values.data();
  T* to = out.mutable_data();
  for_images(held.images(), threads, [&](int64_t b, Place& place) {
    const Memory workspace(ops<T>().filter_workspace(held[b], channels, place.threads));
    return ops<T>().filter(held[b], channels, from + b * step, to + b * step, transpose, place.threads,
                           workspace.data());
  });
  return out;
}

template <class T>
Array<T> lattice_norm(const py::tuple& lattice, const py::object& mask, T power, int threads) {
  HeldLattice<T> held(lattice);
  expect_threads(threads);
  expect(power == T(1) || power == T(-1) || power == T(-0.5), "power must be 1, -1 or -1/2");
  std::vector<Array<T>> keep;
  const T* from = optional<T>(mask, held.images() * held.points(), &keep);
  Array<T> out = empty<T>({held.images(), held.points()});
  T* to = out.mutable_data();
  for_images(held.images(), threads, [&](int64_t b, Place& place) {
    const Memory workspace(ops<T>().filter_workspace(held[b], 1, place.threads));
    const int64_t at = b * held.points();
    return ops<T>().lattice_norm(held[b], from ? from + at : nullptr, power, to + at, place.threads,
                                 workspace.data());
  });
  return out;
}

template <class T>
Array<T> grid_filter(const py::tuple& grid, const Array<T>& values, int threads) {
  expect_threads(threads);
  HeldGrid<T> held(grid);
  expect(values.ndim() == 3 && values.shape(0) >= 1 && values.shape(2) == held.points(),
         "values must be [B, C, n], as many points as the grid has");
  const int channels = int(values.shape(1));
  const int64_t step = channels * held.points();
  Array<T> out = like(values);
  const T* from = values.data();
  T* to = out.mutable_data();
  for_images(values.shape(0), threads, [&](int64_t b, Place& place) {
    const Memory workspace(ops<T>().grid_filter_workspace(held.view, channels, place.threads));
    return ops<T>().grid_filter(held.view, channels, from + b * step, to + b * step, place.threads,
                                workspace.data());
  });
  return out;
}

template <class T>
Array<T> exact_filter(const Array<T>& features, const Array<T>& values, bool self, int64_t begin, int64_t end,
                      int threads) {
  expect(features.ndim() == 2 && features.shape(0) >= 1 && features.shape(1) >= 1, "features must be [N, d]");
  expect(values.ndim() == 2 && values.shape(0) >= 1 && values.shape(1) == features.shape(0),
         "values must be [C, N]");
  expect(0 <= begin && begin < end && end <= features.shape(0), "the range must lie within the points");
  expect_threads(threads);
  Array<T> out = empty<T>({values.shape(0), end - begin});
  const ExactRequest<T> request{features.data(),
                                features.shape(0),
                                int(features.shape(1)),
                                values.data(),
                                int(values.shape(0)),
                                self,
                                begin,
                                end,
                                threads,
                                out.mutable_data()};
  const Memory workspace(ops<T>().exact_filter_workspace(request));
  without_gil([&] { return ops<T>().exact_filter(request, workspace.data()); });
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

template <class T>
py::tuple mean_field(const Array<T>& unary, T unary_sign, const py::object& initial, const py::list& kernels,
                     bool potts, int iterations, T damping, T tolerance, const py::object& mask,
                     bool free_energy, int row_step, int64_t row_points, bool float16, int threads,
                     const py::object& progress) {
  expect(unary.ndim() == 2 && unary.size() > 0, "unary must be [L, N]");
  expect_threads(threads);
  expect(iterations >= 0, "iterations must not be negative");
  expect(row_step >= 0 && row_points > 0 && unary.shape(1) % row_points == 0, "rows must be whole");
  MeanFieldRequest<T> request{};
  request.labels = int(unary.shape(0));
  request.points = unary.shape(1);
  request.unary = unary.data();
  request.unary_sign = unary_sign;
  std::vector<Array<T>> keep;
  request.initial = optional<T>(initial, unary.size(), &keep);
  HeldKernels<T> held(kernels, 1, request.points, request.labels);
  const std::vector<KernelView<T>> views = held.of(0);
  request.kernels = views.data();
  request.num_kernels = held.size();
  request.potts = potts;
  request.iterations = iterations;
  request.row_step = row_step;
  request.row_points = row_points;
  request.float16 = float16;
  request.damping = damping;
  request.tolerance = tolerance;
  Array<uint8_t> mask_bytes;
  if (!mask.is_none()) {
    mask_bytes = mask.cast<Array<uint8_t>>();
    expect(mask_bytes.size() == request.points, "mask has the wrong size");
    request.mask = mask_bytes.data();
  }
  Array<T> probs = like(unary);
  request.output = probs.mutable_data();
  std::vector<double> energies(free_energy ? size_t(iterations) + 1 : 0);
  request.free_energy = free_energy ? energies.data() : nullptr;
  request.threads = threads;
  request.checkpoint = checkpoint;
  request.checkpoint_data = const_cast<py::object*>(&progress);
  const Memory workspace(ops<T>().mean_field_workspace(request));
  without_gil([&] { return ops<T>().mean_field(request, workspace.data()); });
  py::object energy = py::none();
  if (free_energy) energy = Array<double>(int64_t(request.iterations_done) + 1, energies.data());
  return py::make_tuple(probs, request.iterations_done, energy);
}

template <class T>
void define(py::module_ m) {
  m.def("empty", &empty<T>);
  m.def("make_features", &make_features<T>);
  m.def("lattice_build", &lattice_build<T>);
  m.def("lattice_of_image", &lattice_of_image<T>);
  m.def("lattice_self", &lattice_self<T>);
  m.def("filter", &filter<T>);
  m.def("lattice_norm", &lattice_norm<T>);
  m.def("grid_filter", &grid_filter<T>);
  m.def("exact_filter", &exact_filter<T>);
  m.def("mean_field", &mean_field<T>);
  define_training<T>(m);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("__version__") = DENSECRF_VERSION;
  m.attr("MAX_DIMS") = kMaxDims;
  m.attr("MAX_THREADS") = kMaxThreads;
  m.def("simd", [] { return backend().name; });
  m.def("keep_memory", &keep_memory);
  define<float>(m.def_submodule("f32"));
  define<double>(m.def_submodule("f64"));
#ifdef DENSECRF_CUDA
  define_cuda(m.def_submodule("cuda"));
#endif
}
