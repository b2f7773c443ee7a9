// The mean field of the CUDA half, emulated, forward and backward against the CPU's, image by image.
// clang-format off
#include "batch.h"  // first, for the emulation in it

#include "core/bfloat16.h"
#include "cuda/sums.cuh"
// clang-format on

namespace {

// One term of a model.
struct Term {
  enum On { kLattice, kFine, kCoarse } on;
  Weight coupling;
  bool norm_in, norm_out;
};
using Terms = std::vector<Term>;

std::vector<Terms> models() {
  return {
      {},
      {{Term::kLattice, Weight::kScalar, false, false}},
      {{Term::kCoarse, Weight::kVector, false, true}},
      {{Term::kLattice, Weight::kMatrix, true, true}, {Term::kFine, Weight::kScalar, true, false}},
      {{Term::kCoarse, Weight::kMatrix, true, true},
       {Term::kLattice, Weight::kVector, true, true},
       {Term::kFine, Weight::kScalar, false, false}},
  };
}

template <class T>
const T* data_or_null(const std::vector<T>& values, bool wanted = true) {
  return wanted && !values.empty() ? values.data() : nullptr;
}
template <class T>
void append(std::vector<T>* to, const std::vector<T>& from) {
  to->insert(to->end(), from.begin(), from.end());
}
template <class T>
void add(std::vector<T>* to, const std::vector<T>& from) {
  to->resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) (*to)[i] += from[i];
}

// Next to the largest value, be it small; below the floor a saturated softmax has left little but rounding.
template <class T>
constexpr double kRounding = std::is_same_v<T, float> ? 1e-4 : 1e-10;
template <class T>
bool close(const std::vector<T>& a, const std::vector<T>& b, double within = kRounding<T>) {
  double most = 1e-6, error = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = std::fabs(double(a[i]) - double(b[i]));
    most = std::fmax(most, std::fabs(double(b[i])));
    if (!(e <= error)) error = e;  // NaN too
  }
  return a.size() == b.size() && error <= within * most;
}

template <class T>
struct Gradients {
  std::vector<T> logits, initial, slopes;
  struct OfTerm {
    std::vector<T> couplings, weights, norm_in, norm_out;
  };
  std::vector<OfTerm> terms;

  // Calls f on each of mine and its counterpart; `over_images`: those that are summed over a batch.
  template <class F>
  void each(Gradients& other, F f) {
    f(logits, other.logits, false);
    f(initial, other.initial, false);
    f(slopes, other.slopes, true);
    for (size_t k = 0; k < terms.size(); ++k) {
      OfTerm &a = terms[k], &b = other.terms[k];
      f(a.couplings, b.couplings, true);
      f(a.weights, b.weights, false);
      f(a.norm_in, b.norm_in, false);
      f(a.norm_out, b.norm_out, false);
    }
  }
};

enum class Wanted { kLogits, kCouplings, kAll };

constexpr int64_t kHeight = 5, kWidth = 7, kPoints = kHeight * kWidth;

// A run with everything that goes in.
template <class T>
class Model {
 public:
  Model(std::mt19937& rng, const Terms& terms, int images, int labels, int iterations, bool continues)
      : terms(terms),
        images(images),
        labels(labels),
        iterations(iterations),
        lattice(rng, kPoints, 3, spreads(images)),
        fine({1, kHeight, kWidth}, {1, 1, 1}, {0, 2, 1}),
        coarse({1, kHeight, kWidth}, {1, 2, 3}, {0, 1, 2}) {
    logits = random_values<T>(rng, values(), -2, 2);
    grad = random_values<T>(rng, values(), -1, 1);
    norm_in = random_values<T>(rng, points(), 0.1, 0.5);
    norm_out = random_values<T>(rng, points(), 0.1, 0.5);
    if (continues) initial = random_values<T>(rng, values(), 0, 2.0 / labels);
    for (size_t k = 0; k < terms.size(); ++k)
      couplings.push_back(random_values<T>(rng, size_t(labels * labels), -1, 1));
  }

  size_t points() const { return size_t(images * kPoints); }
  size_t values() const { return points() * size_t(labels); }
  const Grid<T>* grid_of(const Term& term) const {
    return term.on == Term::kLattice ? nullptr : term.on == Term::kFine ? &fine : &coarse;
  }
  // What KernelView and cuda::Kernel have in common, from point `first` on.
  template <class Kernel>
  Kernel kernel(size_t k, size_t first) const {
    const Term& term = terms[k];
    Kernel out{};
    if (grid_of(term)) out.grid = &grid_of(term)->view;
    if (term.norm_in) out.norm_in = norm_in.data() + first;
    if (term.norm_out) out.norm_out = norm_out.data() + first;
    out.coupling_kind = term.coupling;
    if (term.coupling == Weight::kScalar) out.coupling = couplings[k][0];
    if (term.coupling != Weight::kScalar) out.couplings = couplings[k].data();
    return out;
  }
  // Room for the gradients on some images.
  Gradients<T> room(Wanted wanted, int images) const {
    const size_t points = size_t(images * kPoints), values = points * size_t(labels);
    Gradients<T> out;
    out.logits.assign(values, T(-7));
    if (!initial.empty()) out.initial.assign(values, T(-7));
    out.terms.resize(terms.size());
    for (size_t k = 0; k < terms.size() && wanted != Wanted::kLogits; ++k) {
      out.terms[k].couplings.assign(size_t(is_matrix(k) ? labels * labels : labels), T(-7));
      if (wanted == Wanted::kCouplings) continue;
      if (terms[k].on == Term::kLattice) out.terms[k].weights.assign(points * 4, T(-7));
      if (terms[k].norm_in) out.terms[k].norm_in.assign(points, T(-7));
      if (terms[k].norm_out) out.terms[k].norm_out.assign(points, T(-7));
    }
    if (wanted == Wanted::kAll) out.slopes.assign(probes().size(), T(-7));
    return out;
  }
  std::vector<TermGradient<T>> wanted(Gradients<T>* room) const {
    std::vector<TermGradient<T>> out;
    const auto at = [](std::vector<T>& values) { return values.empty() ? nullptr : values.data(); };
    for (size_t k = 0; k < terms.size(); ++k) {
      auto& term = room->terms[k];
      out.push_back({is_matrix(k) ? Weight::kMatrix : Weight::kVector, at(term.couplings), at(term.weights),
                     at(term.norm_in), at(term.norm_out)});
    }
    return out;
  }
  // The terms that have one: any other taps will do.
  std::vector<int> probes() const {
    std::vector<int> out;
    for (size_t k = 0; k < terms.size(); ++k) {
      if (terms[k].on != Term::kLattice) out.push_back(int(k));
    }
    return out;
  }
  Grid<T> probe(int k) const {
    Grid<T> out = *grid_of(terms[size_t(k)]);
    for (int a = 1; a < kGridAxes; ++a) {
      for (T& tap : out.taps[a]) tap = T(1.5) - tap;
      out.view.taps[a] = out.taps[a].data();
    }
    out.view.taps[0] = out.taps[0].data();
    return out;
  }

  const Terms terms;
  const int images, labels, iterations;
  const Batch<T> lattice;
  const Grid<T> fine, coarse;
  std::vector<T> logits, initial, grad, norm_in, norm_out;
  std::vector<std::vector<T>> couplings;

 private:
  static std::vector<double> spreads(int images) {
    const std::vector<double> three{2.0, 0.1, 4.0};
    return {three.begin(), three.begin() + images};
  }
  bool is_matrix(size_t k) const { return terms[k].coupling == Weight::kMatrix; }
};

template <class T>
struct Outputs {
  std::vector<T> z, states, kept;
};

// ---- on the CPU

template <class T>
class OnCpu {
 public:
  OnCpu(const Model<T>& model, int keep_every) : model_(model) {
    const size_t each = size_t(model.labels * kPoints);
    const int kept = model.iterations > 0 ? (model.iterations - 1) / keep_every : 0;
    out.kept.resize(size_t(kept) * model.values());
    for (int b = 0; b < model.images; ++b) {
      const std::vector<KernelView<T>> kernels = kernels_of(b);
      MeanFieldRequest<T> request = forward(b, kernels);
      std::vector<T> z(each), states(states_of(request)), kept_q(size_t(kept) * each);
      request.output = z.data();
      request.states = states.data();
      request.kept = kept_q.data();
      request.keep_every = keep_every;
      request.kept_step = int64_t(each);
      std::vector<char> workspace(ops<T>().mean_field_workspace(request));
      CHECK(ops<T>().mean_field(request, workspace.data()) == Status::kOk);
      append(&out.z, z);
      states_.push_back(states);
      for (size_t i = 0; i < kept_q.size(); ++i)
        out.kept[i / each * model.values() + size_t(b) * each + i % each] = kept_q[i];
    }
  }

  Gradients<T> backward(Wanted wanted) const {
    Gradients<T> all = model_.room(wanted, 0);
    for (int b = 0; b < model_.images; ++b) {
      Gradients<T> mine = one_backward(b, wanted);
      all.each(mine, [&](std::vector<T>& sum, std::vector<T>& part, bool over_images) {
        if (over_images && b == 0) sum.clear();
        over_images ? add(&sum, part) : append(&sum, part);
      });
    }
    return all;
  }

  Outputs<T> out;

 private:
  std::vector<KernelView<T>> kernels_of(int b) const {
    std::vector<KernelView<T>> out;
    for (size_t k = 0; k < model_.terms.size(); ++k) {
      out.push_back(model_.template kernel<KernelView<T>>(k, size_t(b * kPoints)));
      if (model_.terms[k].on == Term::kLattice) out.back().lattice = &model_.lattice.images[size_t(b)].view;
    }
    return out;
  }
  MeanFieldRequest<T> forward(int b, const std::vector<KernelView<T>>& kernels) const {
    const size_t at = size_t(b * model_.labels * kPoints);
    MeanFieldRequest<T> out{};
    out.points = kPoints;
    out.labels = model_.labels;
    out.unary = model_.logits.data() + at;
    out.unary_sign = T(1);
    out.initial = model_.initial.empty() ? nullptr : model_.initial.data() + at;
    out.kernels = kernels.data();
    out.num_kernels = int(kernels.size());
    out.iterations = model_.iterations;
    out.logits = true;
    out.threads = 1;
    return out;
  }
  size_t states_of(const MeanFieldRequest<T>& request) const {
    return size_t(model_.iterations * ops<T>().mean_field_states(request));
  }

  Gradients<T> one_backward(int b, Wanted wanted) const {
    const std::vector<KernelView<T>> kernels = kernels_of(b);
    MeanFieldRequest<T> run = forward(b, kernels);
    std::vector<T> states = states_[size_t(b)];
    run.states = states.data();
    Gradients<T> out = model_.room(wanted, 1);
    const std::vector<TermGradient<T>> terms = model_.wanted(&out);
    const std::vector<int> probe_of = out.slopes.empty() ? std::vector<int>() : model_.probes();
    std::vector<Grid<T>> grids;
    std::vector<KernelView<T>> probes;
    for (int k : probe_of) grids.push_back(model_.probe(k));
    for (size_t i = 0; i < grids.size(); ++i) {
      probes.push_back(kernels[size_t(probe_of[i])]);
      probes.back().grid = &grids[i].view;
    }
    MeanFieldGradRequest<T> request{};
    request.forward = &run;
    request.grad = model_.grad.data() + size_t(b * model_.labels * kPoints);
    request.grad_unary = out.logits.data();
    request.grad_initial = out.initial.empty() ? nullptr : out.initial.data();
    request.probes = probes.data();
    request.probe_of = probe_of.data();
    request.num_probes = int(probes.size());
    request.slopes = out.slopes.data();
    request.gradients = terms.data();
    std::vector<char> workspace(ops<T>().mean_field_backward_workspace(request));
    CHECK(ops<T>().mean_field_backward(request, workspace.data()) == Status::kOk);
    return out;
  }

  const Model<T>& model_;
  std::vector<std::vector<T>> states_;
};

// ---- on the device

template <class T>
class OnDevice {
 public:
  OnDevice(const Model<T>& model, bool bfloat16)
      : model_(model), lattice_(model.lattice.view), bfloat16_(bfloat16) {
    lattice_.bfloat16 = bfloat16;
    for (size_t k = 0; k < model.terms.size(); ++k) {
      kernels_.push_back(model.template kernel<cuda::Kernel<T>>(k, 0));
      if (model.terms[k].on == Term::kLattice) kernels_.back().lattice = &lattice_;
    }
    request_.images = model.images;
    request_.points = kPoints;
    request_.labels = model.labels;
    request_.logits = model.logits.data();
    request_.initial = model.initial.empty() ? nullptr : model.initial.data();
    request_.kernels = kernels_.data();
    request_.num_kernels = int(kernels_.size());
    request_.iterations = model.iterations;
    states_.resize(size_t(model.iterations * cuda::mean_field_states(request_)));
  }

  // z, Q after every so many iterations, and the states that backward() goes back through.
  void check(const Outputs<T>& wanted, int keep_every) {
    Same<T> same_z, same_kept, same_states;
    std::vector<T> z(wanted.z.size()), kept(wanted.kept.size());
    for (bool all : {false, true}) {
      cuda::MeanField<T> request = request_;
      request.output = z.data();
      request.kept = all ? kept.data() : nullptr;
      request.keep_every = keep_every;
      request.states = all ? states_.data() : nullptr;
      run(request, [&] {
        CHECK(near(z, wanted.z));
        same_z.add(z);
        if (!all) return;
        CHECK(near(kept, wanted.kept));
        same_kept.add(kept);
        same_states.add(states_);
      });
    }
    cuda::MeanField<T> request = request_;  // the states alone
    request.states = states_.data();
    if (request.iterations > 0) run(request, [&] { same_states.add(states_); });
    request_.states = states_.data();
  }

  void check_backward(Gradients<T> wanted, Wanted what) {
    Gradients<T> found = model_.room(what, model_.images);
    const std::vector<TermGradient<T>> terms = model_.wanted(&found);
    const std::vector<int> probe_of = found.slopes.empty() ? std::vector<int>() : model_.probes();
    std::vector<Grid<T>> grids;
    std::vector<GridView<T>> probes;
    for (int k : probe_of) grids.push_back(model_.probe(k));
    for (const Grid<T>& grid : grids) probes.push_back(grid.view);
    cuda::MeanFieldGrad<T> request{};
    request.forward = &request_;
    request.grad = model_.grad.data();
    request.grad_logits = found.logits.data();
    request.grad_initial = found.initial.empty() ? nullptr : found.initial.data();
    request.gradients = terms.data();
    request.probes = probes.data();
    request.probe_of = probe_of.data();
    request.num_probes = int(probes.size());
    request.slopes = found.slopes.data();
    std::vector<Same<T>> same(3 + 4 * terms.size());
    in_schedules(cuda::mean_field_backward_workspace(request), [&](void* workspace) {
      CHECK(cuda::mean_field_backward(request, workspace, nullptr) == Status::kOk);
      size_t i = 0;
      found.each(wanted, [&](std::vector<T>& mine, std::vector<T>& theirs, bool) {
        CHECK(near(mine, theirs));
        same[i++].add(mine);
        std::fill(mine.begin(), mine.end(), T(-7));
      });
    });
  }

 private:
  // Of 8 bits a few are lost on the way, and more where gradients cancel.
  bool near(const std::vector<T>& a, const std::vector<T>& b) const {
    return close(a, b, bfloat16_ ? 0.1 : kRounding<T>);
  }
  template <class Check>
  void run(const cuda::MeanField<T>& request, Check check) {
    in_schedules(cuda::mean_field_workspace(request), [&](void* workspace) {
      CHECK(cuda::mean_field(request, workspace, nullptr) == Status::kOk);
      check();
    });
  }

  const Model<T>& model_;
  cuda::Lattice<T> lattice_;
  bool bfloat16_;
  std::vector<cuda::Kernel<T>> kernels_;
  cuda::MeanField<T> request_{};
  std::vector<T> states_;
};

template <class T>
void test_mean_field() {
  std::mt19937 rng(17);
  const std::vector<Terms> all = models();
  // The widest rows have more packs than a warp has lanes.
  const std::vector<int> labels{1, 2, 3, 21, 40, sizeof(T) == 4 ? 150 : 70};
  for (size_t m = 0; m < all.size(); ++m) {
    for (size_t l = 0; l < labels.size(); ++l) {
      for (size_t b : {0, 1}) {
        const int iterations = std::vector<int>{5, 1, 2, 0, 4}[(m + 2 * l + b) % 5];
        const Wanted wanted =
            std::vector<Wanted>{Wanted::kAll, Wanted::kCouplings, Wanted::kLogits}[(m + l + b) % 3];
        const bool continues = iterations > 0 && (m / 2 + l + b) % 2;
        const Model<T> model(rng, all[m], b ? 3 : 1, labels[l], iterations, continues);
        const OnCpu<T> cpu(model, 2);
        for (bool bfloat16 : {false, true}) {
          if (bfloat16 && (sizeof(T) != sizeof(float) || b)) continue;
          OnDevice<T> device(model, bfloat16);
          device.check(cpu.out, 2);
          device.check_backward(cpu.backward(wanted), wanted);
        }
      }
    }
  }
}

void test_bfloat16() {
  const auto rounded = [](float value) { return float(cuda::BFloat16(value)); };
  for (float exact : {0.0f, 1.0f, -3.140625f, INFINITY, -INFINITY}) CHECK(rounded(exact) == exact);
  CHECK(std::signbit(rounded(-0.0f)));
  const float step = 1.0f / 128;  // from 1 to the next number
  for (float sign : {1.0f, -1.0f}) {
    CHECK(rounded(sign * (1 + 0.4f * step)) == sign);
    CHECK(rounded(sign * (1 + 0.6f * step)) == sign * (1 + step));
    CHECK(rounded(sign * (1 + 0.5f * step)) == sign);  // the even one of two
    CHECK(rounded(sign * (1 + 1.5f * step)) == sign * (1 + 2 * step));
    CHECK(rounded(sign * 3.4e38f) == sign * INFINITY);  // nearer than the largest number
  }
  for (uint32_t bits : {0x7fffffffu, 0x7f800001u, 0xffffffffu}) {
    float nan;
    std::memcpy(&nan, &bits, sizeof nan);
    CHECK(std::isnan(rounded(nan)));
  }
}

// Parts of more tiles than one, added to what is there.
template <class T>
void test_sums() {
  std::mt19937 rng(19);
  const int labels = 40, stride = cuda::row_stride(labels);
  const cuda::Rows rows{2, 2075, labels, stride};
  const size_t count = size_t(rows.values());
  const auto v = random_values<T>(rng, count, -1, 1), q = random_values<T>(rng, count, 0, 1);
  for (bool matrix : {false, true}) {
    const size_t lines = matrix ? labels : 1;
    std::vector<double> exact(lines * labels);
    for (size_t p = 0; p < count; p += size_t(stride)) {
      for (size_t l = 0; l < lines; ++l) {
        for (size_t c = 0; c < size_t(labels); ++c)
          exact[l * labels + c] += 2 * double(v[p + (matrix ? l : c)]) * double(q[p + c]);
      }
    }
    Same<T> same;
    const int64_t size = cuda::SumShape(rows, matrix).values(rows);
    cuda::Arena measure(nullptr);
    measure.take<T>(size);
    in_schedules(measure.bytes(), [&](void* workspace) {
      T* sums = cuda::Arena(workspace).take<T>(size);
      std::vector<T> found(exact.size(), T(-7));
      cuda::Queue queue(nullptr);
      queue.fill(sums, 0, size_t(size) * sizeof(T));
      for (int turn = 0; turn < 2; ++turn) cuda::queue_sums(&queue, rows, matrix, v.data(), q.data(), sums);
      cuda::queue_add_up(&queue, rows, matrix, sums, found.data());
      CHECK(queue.status() == Status::kOk);
      CHECK(close(found, std::vector<T>(exact.begin(), exact.end())));
      same.add(found);
    });
  }
}

template <class T>
void test_all() {
  test_sums<T>();
  test_mean_field<T>();
}

}  // namespace

int main() {
  test_bfloat16();
  test_all<float>();
  test_all<double>();
  if (!emulation::complaint().empty()) std::printf("last launch: %s\n", emulation::complaint().c_str());
  return report("test_cuda_mean_field, emulated");
}
