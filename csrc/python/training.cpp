// What training needs beside inference: runs that leave behind what their backward pass wants, and gradients.
#include "python/arrays.h"

namespace densecrf {

namespace {

// A request on logits [B, L, N / B].
template <class T>
MeanFieldRequest<T> request_on(const Array<T>& logits, const Array<T>* initial, const HeldKernels<T>& kernels,
                               int iterations, int threads, const py::object* progress) {
  MeanFieldRequest<T> request{};
  request.images = logits.shape(0);
  request.labels = int(logits.shape(1));
  request.points = logits.shape(0) * logits.shape(2);
  request.unary = logits.data();
  request.unary_sign = T(1);
  request.initial = initial ? initial->data() : nullptr;
  request.kernels = kernels.data();
  request.num_kernels = kernels.size();
  request.iterations = iterations;
  request.logits = true;
  request.threads = threads;
  request.checkpoint = checkpoint;
  request.checkpoint_data = const_cast<py::object*>(progress);
  return request;
}

template <class T>
void expect_logits(const Array<T>& logits, const py::object& initial, int iterations, int threads) {
  expect(logits.ndim() == 3 && logits.size() > 0, "logits must be [B, L, N / B]");
  expect(initial.is_none() || initial.cast<Array<T>>().size() == logits.size(), "initial has the wrong size");
  expect(iterations >= 0, "iterations must not be negative");
  expect_threads(threads);
}

// (scores of the last update or None, states or None, kept Q or None).  `states`: leave what the backward
// pass wants; `keep_every`: keep Q after every so many
// iterations, or 0; `output`: compute the scores.
template <class T>
py::tuple mean_field_train(const Array<T>& logits, const py::object& initial, const py::list& kernels,
                           int iterations, bool output, bool states, int keep_every, int threads) {
  expect_logits(logits, initial, iterations, threads);
  expect(output || iterations > 0, "without iterations there is nothing but the output");
  HeldKernels<T> held(kernels, logits.shape(0), logits.shape(0) * logits.shape(2), int(logits.shape(1)));
  Array<T> start = initial.is_none() ? Array<T>() : initial.cast<Array<T>>();
  const py::object none = py::none();
  MeanFieldRequest<T> request =
      request_on(logits, initial.is_none() ? nullptr : &start, held, iterations, threads, &none);
  py::object out = py::none(), left = py::none(), kept = py::none();
  if (output) {
    Array<T> array = like(logits);
    request.output = array.mutable_data();
    out = array;
  }
  if (states) {
    const int64_t size = iterations * ops<T>().mean_field_states(request);
    Array<T> array = empty<T>({size});
    request.states = array.mutable_data();
    left = array;
  }
  if (keep_every > 0) {
    const int64_t count = iterations > 0 ? (iterations - 1) / keep_every : 0;
    Array<T> array = empty<T>({count, logits.shape(0), logits.shape(1), logits.shape(2)});
    request.kept = array.mutable_data();
    request.keep_every = keep_every;
    kept = array;
  }
  const Memory workspace(ops<T>().mean_field_workspace(request));
  without_gil([&] { return ops<T>().mean_field(request, workspace.data()); });
  return py::make_tuple(out, left, kept);
}

// Length of the states of one iteration.
template <class T>
int64_t mean_field_states(const Array<T>& logits, const py::list& kernels) {
  expect(logits.ndim() == 3 && logits.size() > 0, "logits must be [B, L, N / B]");
  HeldKernels<T> held(kernels, logits.shape(0), logits.shape(0) * logits.shape(2), int(logits.shape(1)));
  const py::object none = py::none();
  return ops<T>().mean_field_states(request_on<T>(logits, nullptr, held, 1, 1, &none));
}

// Gradients of one term, as wanted: (couplings: 0 no, 1 diagonal, 2 matrix; weights; norm_in; norm_out).
template <class T>
struct HeldGradient {
  py::object couplings = py::none(), weights = py::none(), norm_in = py::none(), norm_out = py::none();
  TermGradient<T> view{};

  HeldGradient(const py::tuple& wanted, const KernelView<T>& kernel, int64_t points, int labels) {
    const int kind = wanted[0].cast<int>();
    view.coupling_kind = kind == 2 ? Weight::kMatrix : Weight::kVector;
    if (kind == 1) view.couplings = take({labels}, &couplings);
    if (kind == 2) view.couplings = take({labels, labels}, &couplings);
    if (wanted[1].cast<bool>() && kernel.lattice)
      view.weights = take({points, kernel.lattice->dims + 1}, &weights);
    if (wanted[2].cast<bool>()) view.norm_in = take({points}, &norm_in);
    if (wanted[3].cast<bool>()) view.norm_out = take({points}, &norm_out);
  }
  py::tuple results() const { return py::make_tuple(couplings, weights, norm_in, norm_out); }

 private:
  T* take(std::vector<py::ssize_t> shape, py::object* into) {
    Array<T> array = empty<T>(std::move(shape));
    *into = array;
    return array.mutable_data();
  }
};

// (gradient of the logits, gradient of the scores behind `initial` or None, [gradients of each kernel and
// probe])
template <class T>
py::tuple mean_field_backward(const Array<T>& grad, const Array<T>& logits, const py::object& initial,
                              const py::list& kernels, const py::list& probes, const py::list& wanted,
                              int iterations, const Array<T>& states, int threads) {
  expect_logits(logits, initial, iterations, threads);
  expect(grad.size() == logits.size(), "grad has the wrong size");
  expect(initial.is_none() || iterations > 0, "without iterations there is no way back to the initial Q");
  const int64_t points = logits.shape(0) * logits.shape(2);
  const int labels = int(logits.shape(1));
  HeldKernels<T> held(kernels, logits.shape(0), points, labels);
  for (int k = 0; k < held.size(); ++k) expect(!held[k].self, "gradients keep the self-message");
  HeldKernels<T> held_probes(probes, logits.shape(0), points, labels);
  expect(int(wanted.size()) == held.size() + held_probes.size(), "wanted must name each kernel");
  Array<T> start = initial.is_none() ? Array<T>() : initial.cast<Array<T>>();
  const py::object none = py::none();
  MeanFieldRequest<T> forward =
      request_on(logits, initial.is_none() ? nullptr : &start, held, iterations, threads, &none);
  bool inner = false;  // gradients inside the filter: they alone want the last iteration's states
  for (const py::handle& item : wanted) {
    const auto flags = item.cast<py::tuple>();
    for (int i = 1; i < 4; ++i) inner = inner || flags[size_t(i)].cast<bool>();
  }
  expect(states.size() >= (iterations - (inner ? 0 : 1)) * ops<T>().mean_field_states(forward),
         "states have the wrong size");
  forward.states = const_cast<T*>(states.data());
  std::vector<HeldGradient<T>> gradients;
  std::vector<TermGradient<T>> views;
  for (int k = 0; k < held.size() + held_probes.size(); ++k) {
    const KernelView<T>& kernel = k < held.size() ? held[k] : held_probes[k - held.size()];
    gradients.emplace_back(wanted[size_t(k)].cast<py::tuple>(), kernel, points, labels);
    views.push_back(gradients.back().view);
  }
  Array<T> grad_logits = like(logits), grad_initial;
  if (!initial.is_none()) grad_initial = like(logits);
  MeanFieldGradRequest<T> request{&forward,
                                  grad.data(),
                                  grad_logits.mutable_data(),
                                  initial.is_none() ? nullptr : grad_initial.mutable_data(),
                                  held_probes.data(),
                                  held_probes.size(),
                                  views.data()};
  const Memory workspace(ops<T>().mean_field_backward_workspace(request));
  without_gil([&] { return ops<T>().mean_field_backward(request, workspace.data()); });
  py::list results;
  for (const HeldGradient<T>& g : gradients) results.append(g.results());
  return py::make_tuple(grad_logits, initial.is_none() ? py::object(py::none()) : py::object(grad_initial),
                        results);
}

template <class T>
Array<T> filter_weights_grad(const py::tuple& lattice, const Array<T>& values, const Array<T>& grad,
                             int threads) {
  HeldLattice<T> held(lattice);
  expect_threads(threads);
  expect(values.ndim() == 3 && values.shape(0) * values.shape(2) == held.view.points &&
             values.size() == grad.size(),
         "values and grad must be [B, C, N / B]");
  const int64_t images = values.shape(0);
  const int channels = int(values.shape(1));
  Array<T> out = empty<T>({held.view.points, held.view.dims + 1});
  const Memory workspace(ops<T>().filter_weights_grad_workspace(held.view, channels, threads));
  const T *from = values.data(), *back = grad.data();
  T* to = out.mutable_data();
  without_gil([&] {
    return ops<T>().filter_weights_grad(held.view, images, channels, from, back, to, threads,
                                        workspace.data());
  });
  return out;
}

template <class T>
Array<T> lattice_features_grad(const Array<T>& features, double scale, bool pad_origin,
                               const Array<T>& grad_weights, int threads) {
  expect(features.ndim() == 3 && features.size() > 0 && features.shape(2) <= kMaxDims,
         "features must be [B, N, d]");
  expect_threads(threads);
  const int64_t points = features.shape(0) * features.shape(1), dims = features.shape(2);
  expect(grad_weights.size() == points * (dims + 1), "grad has the wrong size");
  LatticeRequest<T> request{};
  request.features = features.data();
  request.points = points;
  request.images = features.shape(0);
  request.dims = int(dims);
  request.scale = scale;
  request.pad_origin = pad_origin;
  request.threads = threads;
  Array<T> out = like(features);
  T* to = out.mutable_data();
  const T* from = grad_weights.data();
  without_gil([&] { return ops<T>().lattice_features_grad(request, from, to); });
  return out;
}

}  // namespace

template <class T>
void define_training(py::module_ m) {
  m.def("mean_field_train", &mean_field_train<T>);
  m.def("mean_field_states", &mean_field_states<T>);
  m.def("mean_field_backward", &mean_field_backward<T>);
  m.def("filter_weights_grad", &filter_weights_grad<T>);
  m.def("lattice_features_grad", &lattice_features_grad<T>);
}

template void define_training<float>(py::module_);
template void define_training<double>(py::module_);

}  // namespace densecrf
