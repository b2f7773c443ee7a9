// The binding of csrc/cuda/device.h: its functions, with a plain number for every pointer to device memory
// and for the stream, and a tuple for every struct.
//
// A function of device.h becomes one of Python by bind(): Argument says for each of its parameters what
// Python passes.
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

template <class T>
struct Argument<const cuda::Lattice<T>&> {
  using Python = py::tuple;
  static cuda::Lattice<T> of(const py::tuple& tuple) {
    cuda::Lattice<T> out{};
    read_members(tuple, &out.images, &out.points, &out.dims, &out.vertices, &out.weights, &out.corner,
                 &out.sorted, &out.starts, &out.neighbours, &out.blur, &out.alpha);
    return out;
  }
};
template <class T>
struct Argument<const GridView<T>&> {
  using Python = py::tuple;
  static GridView<T> of(const py::tuple& tuple) {
    GridView<T> out{};
    read_members(tuple, &out.size, &out.spacing, &out.radius, &out.taps);
    return out;
  }
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
template <class... P>
void bind(py::module_ m, const char* name, size_t (*function)(P...)) {
  m.def(name, [function](const Python<P>&... given) { return function(Argument<P>::of(given)...); });
}

template <class T>
void define(py::module_ m) {
  bind(m, "filter_workspace", &cuda::filter_workspace<T>);
  bind(m, "filter", &cuda::filter<T>);
  bind(m, "grid_filter_workspace", &cuda::grid_filter_workspace<T>);
  bind(m, "grid_filter", &cuda::grid_filter<T>);
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
