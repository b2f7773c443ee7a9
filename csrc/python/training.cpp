// What training needs beside inference: runs that leave behind what their backward pass wants, and gradients.
#include "python/arrays.h"
#include "python/batch.h"

namespace densecrf {

namespace {

// The runs of a batch: logits [B, L, n], the kernels on each image.
template <class T>
class Runs {
 public:
  Runs(const Array<T>& logits, const py::object& initial, const py::list& kernels, int iterations,
       int threads)
      : images(shape_checked(logits).shape(0)),
        labels(int(logits.shape(1))),
        points(logits.shape(2)),
        iterations(iterations),
        kernels(kernels, images, points, labels),
        logits_(logits) {
    expect(iterations >= 0, "iterations must not be negative");
    expect_threads(threads);
    if (!initial.is_none()) {
      initial_ = initial.cast<Array<T>>();
      expect(initial_.size() == logits.size(), "initial has the wrong size");
    }
    states_at_.push_back(0);
    for (int64_t b = 0; b < images; ++b) {
      const std::vector<KernelView<T>> views = this->kernels.of(b);
      Place anywhere{1, false, nullptr};
      states_at_.push_back(states_at_.back() + ops<T>().mean_field_states(request(b, views, &anywhere)));
    }
  }

  int64_t at(int64_t image) const { return image * labels * points; }  // of [B, L, n]
  // Bytes of one image's filtered values.
  int64_t values() const { return states() / images * int64_t(sizeof(T)); }
  // Length of the states of one iteration, and where an image's begin among those of so many iterations.
  int64_t states() const { return states_at_.back(); }
  int64_t states_at(int64_t image, int64_t kept) const { return states_at_[size_t(image)] * kept; }

  MeanFieldRequest<T> request(int64_t image, const std::vector<KernelView<T>>& views, Place* place) const {
    MeanFieldRequest<T> out{};
    out.labels = labels;
    out.points = points;
    out.unary = logits_.data() + at(image);
    out.unary_sign = T(1);
    out.initial = initial_.size() ? initial_.data() + at(image) : nullptr;
    out.kernels = views.data();
    out.num_kernels = int(views.size());
    out.iterations = iterations;
    out.logits = true;
    out.threads = place->threads;
    out.checkpoint = Place::checkpoint;
    out.checkpoint_data = place;
    return out;
  }

  const int64_t images;
  const int labels;
  const int64_t points;
  const int iterations;
  const HeldKernels<T> kernels;

 private:
  static const Array<T>& shape_checked(const Array<T>& logits) {
    expect(logits.ndim() == 3 && logits.size() > 0, "logits must be [B, L, n]");
    return logits;
  }

  const Array<T>& logits_;
  Array<T> initial_;
  std::vector<int64_t> states_at_;
};

template <class T>
T* data_of(py::object* array, Array<T> made) {
  *array = made;
  return made.mutable_data();
}

// (scores of the last update or None, states or None, kept Q or None).  `states`: leave what the backward
// pass wants; `keep_every`: keep Q after every so many iterations, or 0; `output`: compute the scores.
template <class T>
py::tuple mean_field_train(const Array<T>& logits, const py::object& initial, const py::list& kernels,
                           int iterations, bool output, bool states, int keep_every, int threads) {
  const Runs<T> runs(logits, initial, kernels, iterations, threads);
  expect(output || iterations > 0, "without iterations there is nothing but the output");
  py::object out = py::none(), left = py::none(), kept = py::none();
  const int64_t count = keep_every > 0 && iterations > 0 ? (iterations - 1) / keep_every : 0;
  T* to_out = output ? data_of(&out, like(logits)) : nullptr;
  T* to_states = states ? data_of(&left, empty<T>({runs.states() * iterations})) : nullptr;
  T* to_kept =
      keep_every > 0 ? data_of(&kept, empty<T>({count, runs.images, runs.labels, runs.points})) : nullptr;
  for_images(runs.images, threads, runs.values(), [&](int64_t b, Place& place) {
    const std::vector<KernelView<T>> views = runs.kernels.of(b);
    MeanFieldRequest<T> request = runs.request(b, views, &place);
    if (output) request.output = to_out + runs.at(b);
    if (states) request.states = to_states + runs.states_at(b, iterations);
    if (keep_every > 0) request.kept = to_kept + runs.at(b);
    request.keep_every = keep_every;
    request.kept_step = runs.at(runs.images);
    const Memory workspace(ops<T>().mean_field_workspace(request));
    return ops<T>().mean_field(request, workspace.data());
  });
  return py::make_tuple(out, left, kept);
}

// Length of the states of one iteration.
template <class T>
int64_t mean_field_states(const Array<T>& logits, const py::list& kernels) {
  return Runs<T>(logits, py::none(), kernels, 1, 1).states();
}

// Gradients of one term, as wanted: (couplings: 0 no, 1 diagonal, 2 matrix; weights; norm_in; norm_out).
template <class T>
struct HeldGradient {
  // [B, L] or [B, L, L], image by image; [B n, d+1]; [B n] both
  py::object couplings = py::none(), weights = py::none(), norm_in = py::none(), norm_out = py::none();

  HeldGradient(const py::tuple& wanted, const KernelView<T>& kernel, const Runs<T>& runs)
      : corners_(kernel.lattice ? kernel.lattice->dims + 1 : 0), points_(runs.points) {
    const int kind = wanted[0].cast<int>();
    const int64_t images = runs.images, all = images * points_, labels = runs.labels;
    couplings_ = kind == 2 ? labels * labels : labels;
    first_.coupling_kind = kind == 2 ? Weight::kMatrix : Weight::kVector;
    if (kind == 1) first_.couplings = data_of(&couplings, empty<T>({images, labels}));
    if (kind == 2) first_.couplings = data_of(&couplings, empty<T>({images, labels, labels}));
    if (wanted[1].cast<bool>() && kernel.lattice)
      first_.weights = data_of(&weights, empty<T>({all, corners_}));
    if (wanted[2].cast<bool>()) first_.norm_in = data_of(&norm_in, empty<T>({all}));
    if (wanted[3].cast<bool>()) first_.norm_out = data_of(&norm_out, empty<T>({all}));
  }
  TermGradient<T> of(int64_t image) const {
    TermGradient<T> out = first_;
    if (out.couplings) out.couplings += image * couplings_;
    if (out.weights) out.weights += image * points_ * corners_;
    if (out.norm_in) out.norm_in += image * points_;
    if (out.norm_out) out.norm_out += image * points_;
    return out;
  }
  bool inner() const { return first_.weights || first_.norm_in || first_.norm_out; }
  py::tuple results() const { return py::make_tuple(couplings, weights, norm_in, norm_out); }

 private:
  int64_t corners_, points_, couplings_;
  TermGradient<T> first_{};  // on the first image
};

// (gradient of the logits, gradient of the scores behind `initial` or None, [gradients of each kernel],
// slopes of the probes [B, P])
template <class T>
py::tuple mean_field_backward(const Array<T>& grad, const Array<T>& logits, const py::object& initial,
                              const py::list& kernels, const py::list& probes,
                              const std::vector<int>& probe_of, const py::list& wanted, int iterations,
                              const Array<T>& states, int threads) {
  const Runs<T> runs(logits, initial, kernels, iterations, threads);
  expect(grad.size() == logits.size(), "grad has the wrong size");
  expect(initial.is_none() || iterations > 0, "without iterations there is no way back to the initial Q");
  const HeldKernels<T> held_probes(probes, runs.images, runs.points, runs.labels);
  const std::vector<KernelView<T>> all = runs.kernels.of(0);
  for (const KernelView<T>& kernel : all) expect(!kernel.self, "gradients keep the self-message");
  expect(wanted.size() == all.size(), "wanted must name each kernel");
  expect(probe_of.size() == probes.size(), "probe_of must name each probe's kernel");
  for (int k : probe_of) expect(k >= 0 && k < int(all.size()) && all[size_t(k)].grid, "probes are of grids");
  std::vector<HeldGradient<T>> gradients;
  for (size_t k = 0; k < all.size(); ++k) gradients.emplace_back(wanted[k].cast<py::tuple>(), all[k], runs);
  bool inner = !probe_of.empty();  // gradients inside the filter: they alone want the last iteration's states
  for (const HeldGradient<T>& gradient : gradients) inner = inner || gradient.inner();
  const int64_t kept = runs.states() > 0 ? states.size() / runs.states() : iterations;
  expect(states.size() == runs.states() * kept && kept >= iterations - (inner ? 0 : 1),
         "states have the wrong size");
  py::object grad_logits, grad_initial = py::none();
  T* to_logits = data_of(&grad_logits, like(logits));
  T* to_initial = initial.is_none() ? nullptr : data_of(&grad_initial, like(logits));
  const int64_t num_probes = int64_t(probe_of.size());
  Array<T> slopes({runs.images, num_probes});
  T* to_slopes = slopes.mutable_data();
  const T* from = grad.data();
  for_images(runs.images, threads, runs.values(), [&](int64_t b, Place& place) {
    const std::vector<KernelView<T>> views = runs.kernels.of(b), probe_views = held_probes.of(b);
    std::vector<TermGradient<T>> terms;
    for (const HeldGradient<T>& gradient : gradients) terms.push_back(gradient.of(b));
    MeanFieldRequest<T> forward = runs.request(b, views, &place);
    forward.states = const_cast<T*>(states.data()) + runs.states_at(b, kept);
    const MeanFieldGradRequest<T> request{&forward,
                                          from + runs.at(b),
                                          to_logits + runs.at(b),
                                          to_initial ? to_initial + runs.at(b) : nullptr,
                                          probe_views.data(),
                                          probe_of.data(),
                                          int(num_probes),
                                          to_slopes + b * num_probes,
                                          terms.data()};
    const Memory workspace(ops<T>().mean_field_backward_workspace(request));
    return ops<T>().mean_field_backward(request, workspace.data());
  });
  py::list results;
  for (const HeldGradient<T>& g : gradients) results.append(g.results());
  return py::make_tuple(grad_logits, grad_initial, results, slopes);
}

template <class T>
Array<T> filter_weights_grad(const py::tuple& lattice, const Array<T>& values, const Array<T>& grad,
                             int threads) {
  HeldLattice<T> held(lattice);
  expect_threads(threads);
  expect(values.ndim() == 3 && values.shape(0) == held.images() && values.shape(2) == held.points() &&
             values.size() == grad.size(),
         "values and grad must be [B, C, n]");
  const int channels = int(values.shape(1));
  const int64_t step = channels * held.points(), corners = held.dims() + 1;
  Array<T> out = empty<T>({held.images() * held.points(), corners});
  const T *from = values.data(), *back = grad.data();
  T* to = out.mutable_data();
  for_images(held.images(), threads, [&](int64_t b, Place& place) {
    const Memory workspace(ops<T>().filter_weights_grad_workspace(held[b], channels, place.threads));
    return ops<T>().filter_weights_grad(held[b], channels, from + b * step, back + b * step,
                                        to + b * held.points() * corners, place.threads, workspace.data());
  });
  return out;
}

template <class T>
Array<T> lattice_features_grad(const Array<T>& features, double scale, bool pad_origin,
                               const Array<T>& grad_weights, int threads) {
  expect(features.ndim() == 3 && features.size() > 0 && features.shape(2) <= kMaxDims,
         "features must be [B, n, d]");
  expect_threads(threads);
  const int64_t points = features.shape(1), dims = features.shape(2), step = points * dims;
  expect(grad_weights.size() == features.shape(0) * points * (dims + 1), "grad has the wrong size");
  Array<T> out = like(features);
  T* to = out.mutable_data();
  const T *from = features.data(), *back = grad_weights.data();
  for_images(features.shape(0), threads, [&](int64_t b, Place& place) {
    LatticeRequest<T> request{};
    request.features = from + b * step;
    request.points = points;
    request.dims = int(dims);
    request.scale = scale;
    request.pad_origin = pad_origin;
    request.threads = place.threads;
    return ops<T>().lattice_features_grad(request, back + b * points * (dims + 1), to + b * step);
  });
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
