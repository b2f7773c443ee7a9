// The binding of csrc/cuda/device.h: its functions, with a plain number for every pointer to device memory
// and for the stream, and a tuple for every struct.
//
// A function of device.h becomes one of Python by bind(): Argument says for each of its parameters what
// Python passes.
#include <memory>
#include <vector>

#include "cuda/device.h"
#include "python/arrays.h"

namespace densecrf {

namespace {

template <class P>
struct Argument {
  using Python = P;
  static P of(P given) { return given; }
};
template <class X>
struct Argument<X*> {
  using Python = uintptr_t;
  static X* of(uintptr_t address) { return reinterpret_cast<X*>(address); }
};

// Reads a struct's members from a tuple, one after the other.
class Members {
 public:
  Members(const py::tuple& tuple, size_t count) : tuple_(tuple) {
    expect(tuple.size() == count, "a tuple has the wrong length");
  }
  template <class X>
  void read(X* member) {
    *member = Argument<X>::of(tuple_[next_++].cast<typename Argument<X>::Python>());
  }
  template <class X, size_t N>
  void read(X (*member)[N]) {
    Members each(tuple_[next_++].cast<py::tuple>(), N);
    for (X& x : *member) each.read(&x);
  }

 private:
  const py::tuple tuple_;
  size_t next_ = 0;
};
template <class... X>
void read_members(const py::tuple& tuple, X*... members) {
  Members from(tuple, sizeof...(members));
  (from.read(members), ...);
}

template <>
struct Argument<Weight> {
  using Python = int;
  static Weight of(int number) { return Weight(number); }
};
template <class X>
struct Argument<std::vector<X>> {
  using Python = py::list;
  static std::vector<X> of(const py::list& list) {
    std::vector<X> out;
    for (py::handle each : list) out.push_back(Argument<X>::of(each.cast<typename Argument<X>::Python>()));
    return out;
  }
};
template <class X>
struct Argument<const X&> : Argument<X> {};

template <class T>
struct Argument<cuda::Lattice<T>> {
  using Python = py::tuple;
  static cuda::Lattice<T> of(const py::tuple& tuple) {
    cuda::Lattice<T> out{};
    read_members(tuple, &out.images, &out.points, &out.dims, &out.vertices, &out.weights, &out.corner,
                 &out.sorted, &out.starts, &out.neighbours, &out.blur, &out.alpha, &out.bfloat16);
    return out;
  }
};
template <class T>
struct Argument<GridView<T>> {
  using Python = py::tuple;
  static GridView<T> of(const py::tuple& tuple) {
    GridView<T> out{};
    read_members(tuple, &out.size, &out.spacing, &out.radius, &out.taps);
    return out;
  }
};
template <class T>
struct Argument<cuda::BuildRequest<T>> {
  using Python = py::tuple;
  static cuda::BuildRequest<T> of(const py::tuple& tuple) {
    cuda::BuildRequest<T> out{};
    read_members(tuple, &out.features, &out.images, &out.points, &out.dims, &out.scale, &out.pad_origin,
                 &out.bridges, &out.lo, &out.hi);
    return out;
  }
};
template <class T>
struct Argument<cuda::ImageFeatures<T>> {
  using Python = py::tuple;
  static cuda::ImageFeatures<T> of(const py::tuple& tuple) {
    cuda::ImageFeatures<T> out{};
    read_members(tuple, &out.images, &out.size, &out.spatial, &out.channels, &out.image, &out.sigma,
                 &out.channel_sigma);
    return out;
  }
};
template <class T>
struct Argument<TermGradient<T>> {
  using Python = py::tuple;
  static TermGradient<T> of(const py::tuple& tuple) {
    TermGradient<T> out{};
    read_members(tuple, &out.coupling_kind, &out.couplings, &out.weights, &out.norm_in, &out.norm_out);
    return out;
  }
};

// A kernel with the struct that it points to: a list of one lattice and none of grids, or the reverse.
template <class T>
struct OwnedKernel {
  std::vector<cuda::Lattice<T>> lattice;
  std::vector<GridView<T>> grid;
  cuda::Kernel<T> rest;

  cuda::Kernel<T> view() const {
    cuda::Kernel<T> out = rest;
    out.lattice = lattice.empty() ? nullptr : lattice.data();
    out.grid = grid.empty() ? nullptr : grid.data();
    return out;
  }
};
template <class T>
struct Argument<OwnedKernel<T>> {
  using Python = py::tuple;
  static OwnedKernel<T> of(const py::tuple& tuple) {
    OwnedKernel<T> out{};
    read_members(tuple, &out.lattice, &out.grid, &out.rest.norm_in, &out.rest.norm_out,
                 &out.rest.coupling_kind, &out.rest.couplings);
    expect(out.lattice.size() + out.grid.size() == 1, "a kernel is one lattice or one grid");
    return out;
  }
};

// Requests with the arrays that they point to, whose places survive a move.
template <class T>
class OwnedMeanField {
 public:
  explicit OwnedMeanField(const py::tuple& tuple) {
    read_members(tuple, &request_.images, &request_.points, &request_.labels, &request_.logits,
                 &request_.initial, &owned_, &request_.iterations, &request_.output, &request_.states,
                 &request_.kept, &request_.keep_every);
    for (const OwnedKernel<T>& kernel : owned_) kernels_.push_back(kernel.view());
    request_.kernels = kernels_.data();
    request_.num_kernels = int(kernels_.size());
  }
  OwnedMeanField(OwnedMeanField&&) = default;
  operator const cuda::MeanField<T>&() const { return request_; }

 private:
  std::vector<OwnedKernel<T>> owned_;
  std::vector<cuda::Kernel<T>> kernels_;
  cuda::MeanField<T> request_{};
};
template <class T>
struct Argument<cuda::MeanField<T>> {
  using Python = py::tuple;
  static OwnedMeanField<T> of(const py::tuple& tuple) { return OwnedMeanField<T>(tuple); }
};

template <class T>
class OwnedMeanFieldGrad {
 public:
  explicit OwnedMeanFieldGrad(const py::tuple& tuple) {
    py::tuple forward;
    read_members(tuple, &forward, &request_.grad, &request_.grad_logits, &request_.grad_initial, &gradients_,
                 &probes_, &probe_of_, &request_.slopes);
    forward_ = std::make_unique<OwnedMeanField<T>>(forward);
    request_.forward = &static_cast<const cuda::MeanField<T>&>(*forward_);
    expect(int(gradients_.size()) == request_.forward->num_kernels && probe_of_.size() == probes_.size(),
           "gradients do not fit the kernels");
    request_.gradients = gradients_.data();
    request_.probes = probes_.data();
    request_.probe_of = probe_of_.data();
    request_.num_probes = int(probes_.size());
  }
  OwnedMeanFieldGrad(OwnedMeanFieldGrad&&) = default;
  operator const cuda::MeanFieldGrad<T>&() const { return request_; }

 private:
  std::unique_ptr<OwnedMeanField<T>> forward_;
  std::vector<TermGradient<T>> gradients_;
  std::vector<GridView<T>> probes_;
  std::vector<int> probe_of_;
  cuda::MeanFieldGrad<T> request_{};
};
template <class T>
struct Argument<cuda::MeanFieldGrad<T>> {
  using Python = py::tuple;
  static OwnedMeanFieldGrad<T> of(const py::tuple& tuple) { return OwnedMeanFieldGrad<T>(tuple); }
};

template <class P>
using Python = typename Argument<P>::Python;

// Without the GIL; the engine's errors become exceptions, the device's with what its runtime says.
template <class F>
void queue(F&& run) {
  Status status;
  without_gil([&] {
    status = run();
    return status < Status::kDevice ? status : Status::kOk;
  });
  if (status < Status::kDevice) return;
  char text[256];
  cuda::describe(status, text, sizeof text);
  throw std::runtime_error(text);
}

#ifdef DENSECRF_EMULATED
constexpr bool kEmulated = true;
void forget_workspace() { emulation::forget_guards(); }
#else
constexpr bool kEmulated = false;
void forget_workspace() {}
#endif

template <class... P>
void bind(py::module_ m, const char* name, Status (*function)(P...)) {
  m.def(name, [function](const Python<P>&... given) {
    const auto arguments = std::make_tuple(Argument<P>::of(given)...);
    queue([&] {
      const Status status = std::apply(function, arguments);
      forget_workspace();
      return status;
    });
  });
}
template <class Number, class... P>
void bind(py::module_ m, const char* name, Number (*function)(P...)) {
  m.def(name, [function](const Python<P>&... given) { return function(Argument<P>::of(given)...); });
}

template <class T>
void define(py::module_ m) {
  bind(m, "build_extent_workspace", &cuda::build_extent_workspace<T>);
  bind(m, "build_extent", &cuda::build_extent<T>);
  bind(m, "check_build", &cuda::check_build<T>);
  bind(m, "build_vertices_workspace", &cuda::build_vertices_workspace<T>);
  bind(m, "build_vertices", &cuda::build_vertices<T>);
  bind(m, "build_links", &cuda::build_links<T>);
  bind(m, "lattice_features_grad", &cuda::lattice_features_grad<T>);
  bind(m, "filter_workspace", &cuda::filter_workspace<T>);
  bind(m, "filter", &cuda::filter<T>);
  bind(m, "filter_weights_grad_workspace", &cuda::filter_weights_grad_workspace<T>);
  bind(m, "filter_weights_grad", &cuda::filter_weights_grad<T>);
  bind(m, "image_features", &cuda::image_features<T>);
  bind(m, "image_features_grad_workspace", &cuda::image_features_grad_workspace<T>);
  bind(m, "image_features_grad", &cuda::image_features_grad<T>);
  bind(m, "grid_filter_workspace", &cuda::grid_filter_workspace<T>);
  bind(m, "grid_filter", &cuda::grid_filter<T>);
  bind(m, "mean_field_states", &cuda::mean_field_states<T>);
  bind(m, "mean_field_workspace", &cuda::mean_field_workspace<T>);
  bind(m, "mean_field", &cuda::mean_field<T>);
  bind(m, "mean_field_backward_workspace", &cuda::mean_field_backward_workspace<T>);
  bind(m, "mean_field_backward", &cuda::mean_field_backward<T>);
}

}  // namespace

void define_cuda(py::module_ m) {
  m.attr("emulated") = kEmulated;
  define<float>(m.def_submodule("f32"));
  define<double>(m.def_submodule("f64"));
}

}  // namespace densecrf

#ifdef DENSECRF_EMULATED
PYBIND11_MODULE(_emulated, m) { densecrf::define_cuda(m); }
#endif
