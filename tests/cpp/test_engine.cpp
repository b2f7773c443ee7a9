// The engine through its C++ contract alone: lattices, filters and mean field on random input, each in a
// workspace of exactly the size that was asked for, with guards around it and garbage in it.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support.h"

namespace {

// Vertex one step up each axis, or -1; checks the chains on the way.
template <class T>
std::vector<int32_t> steps_up(const LatticeView<T>& lattice) {
  const int64_t M = lattice.vertices;
  std::vector<int32_t> up((lattice.dims + 1) * M, -1);
  CHECK(lattice.chain_starts[0] == 0);
  for (int axis = 0; axis <= lattice.dims; ++axis) {
    std::vector<int> seen(M, 0);
    bool in_chain = false;
    for (int64_t i = lattice.chain_starts[axis]; i < lattice.chain_starts[axis + 1]; ++i) {
      const int32_t id = lattice.chains[i] < 0 ? ~lattice.chains[i] : lattice.chains[i];
      CHECK(id < M);
      CHECK(++seen[id] == 1);
      CHECK(in_chain || lattice.chains[i] >= 0);  // a chain has two vertices at least
      in_chain = lattice.chains[i] >= 0;
      if (!in_chain) continue;
      const int32_t next = lattice.chains[i + 1];
      up[axis * M + id] = next < 0 ? ~next : next;
    }
    CHECK(!in_chain);
  }
  return up;
}

template <class T>
void check_tables(const LatticeView<T>& lattice) {
  const int corners = lattice.dims + 1;
  for (int64_t p = 0; p < lattice.points; ++p) {
    double sum = 0;
    for (int k = 0; k < corners; ++k) {
      const T w = lattice.weights[p * corners + k];
      CHECK(w >= T(-1e-5) && w <= T(1 + 1e-5));
      sum += w;
    }
    CHECK(std::fabs(sum - 1) < 1e-5);
    CHECK(lattice.simplex[p] >= 0 && lattice.simplex[p] < lattice.simplices);
  }
  const std::vector<int32_t> up = steps_up(lattice);
  for (int64_t s = 0; s < lattice.simplices; ++s) {
    const int32_t* id = lattice.simplex_vertices + s * corners;
    for (int k = 0; k < corners; ++k) {
      CHECK(id[k] >= 0 && id[k] < lattice.vertices);
      int ways = 0;  // from a corner one step up to the next, the last one leading back to the first
      for (int axis = 0; axis < corners; ++axis)
        ways += up[axis * lattice.vertices + id[k]] == id[(k + 1) % corners];
      CHECK(ways == 1);
    }
  }
}

template <class T>
std::vector<T> filtered(const LatticeView<T>& lattice, const std::vector<T>& values, bool transpose,
                        int threads) {
  const int channels = int(values.size() / lattice.points);
  std::vector<T> out(values.size());
  Same<T> same;
  in_workspace(ops<T>().filter_workspace(lattice, channels, threads), [&](void* workspace) {
    out.assign(values.size(), T(-7));
    CHECK(ops<T>().filter(lattice, channels, values.data(), out.data(), transpose, threads, workspace) ==
          Status::kOk);
    same.add(out);
  });
  return out;
}

template <class T>
double dot(const std::vector<T>& a, const std::vector<T>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

template <class T>
void check_filter(std::mt19937& rng, const LatticeView<T>& lattice, int threads) {
  const size_t n = size_t(lattice.points);
  for (int channels : {1, 2, 3, 8, 16, 17, 20, 40}) {
    const auto x = random_values<T>(rng, channels * n, -1, 1), y = random_values<T>(rng, channels * n, -1, 1);
    const auto Kx = filtered(lattice, x, false, threads), Ky = filtered(lattice, y, true, threads);
    const double scale = std::sqrt(dot(Kx, Kx) * dot(y, y)) + 1;
    CHECK(std::fabs(dot(Kx, y) - dot(x, Ky)) < rounding<T>() * scale);
    CHECK(near(filtered(lattice, x, false, threads == 1 ? 3 : 1), Kx, rounding<T>()));
  }
  for (T v : filtered(lattice, std::vector<T>(n, T(1)), false, threads)) CHECK(v > 0);
  // The diagonal, point by point.
  std::vector<T> own(n);
  CHECK(ops<T>().lattice_self(lattice, threads, own.data()) == Status::kOk);
  for (size_t p = 0; p < n; p += 1 + n / 7) {
    std::vector<T> unit(n, T(0));
    unit[p] = 1;
    CHECK(std::fabs(double(filtered(lattice, unit, false, 1)[p]) - own[p]) < rounding<T>());
  }
  // Not a number is found wherever it is.
  for (size_t at : {size_t(0), n / 2, 3 * n - 1}) {
    auto bad = random_values<T>(rng, 3 * n, 0, 1);
    bad[at] = std::numeric_limits<T>::quiet_NaN();
    std::vector<T> out(3 * n);
    in_workspace(ops<T>().filter_workspace(lattice, 3, threads), [&](void* workspace) {
      CHECK(ops<T>().filter(lattice, 3, bad.data(), out.data(), false, threads, workspace) ==
            Status::kNotFinite);
    });
  }
}

template <class T>
void test_lattices() {
  std::mt19937 rng(1);
  for (int d : {1, 2, 3, 5, 6, 7}) {
    for (int64_t points : {1, 16, 203}) {
      for (int threads : {1, 3}) {
        const auto features = random_values<T>(rng, points * d, 0, 3);
        for (bool tuned : {false, true}) {
          Lattice<T> lattice;
          CHECK(lattice.build(features, d, !tuned, tuned, threads) == Status::kOk);
          check_tables(lattice.view);
          check_filter(rng, lattice.view, threads);
        }
      }
    }
  }
}

template <class T>
void test_wide_lattices() {
  // Double embedding, wide keys and fingerprints; points so far apart send to themselves only.
  std::mt19937 rng(2);
  for (int d : {2, 5, 17, kMaxDims}) {
    for (double apart : {1e3, 1e5, 1e7}) {
      const auto features = random_values<T>(rng, 50 * d, -apart, apart);
      Lattice<T> lattice;
      const Status status = lattice.build(features, d, false, true, 2);
      if (status == Status::kRangeTooLarge && d == kMaxDims && apart > 1e6) continue;  // beyond 2^40 cells
      CHECK(status == Status::kOk);
      check_tables(lattice.view);
      std::vector<T> own(50);
      CHECK(ops<T>().lattice_self(lattice.view, 2, own.data()) == Status::kOk);
      CHECK(near(filtered(lattice.view, std::vector<T>(50, T(1)), false, 2), own, rounding<T>()));
    }
    Lattice<T> lattice;
    auto features = random_values<T>(rng, 50 * d, 0, 1);
    features[7] = T(1e20);
    CHECK(lattice.build(features, d, false, true, 2) == Status::kRangeTooLarge);
    features[7] = std::numeric_limits<T>::infinity();
    CHECK(lattice.build(features, d, false, true, 2) == Status::kNotFinite);
    features[7] = std::numeric_limits<T>::quiet_NaN();
    CHECK(lattice.build(features, d, true, false, 1) == Status::kNotFinite);
  }
}

// ---- grid

template <class T>
std::vector<T> grid_by_definition(const Grid<T>& grid, const std::vector<T>& values) {
  const int64_t* size = grid.view.size;
  std::vector<T> from = values, to(values.size());
  int64_t step = 1;
  for (int axis = kGridAxes - 1; axis >= 0; step *= size[axis], --axis) {
    for (int64_t i = 0; i < int64_t(from.size()); ++i) {
      const int64_t at = i / step % size[axis];
      double sum = 0;
      for (int64_t j = 0; j < size[axis]; ++j) sum += grid.weight(axis, at, j) * from[i + (j - at) * step];
      to[i] = T(sum);
    }
    from.swap(to);
  }
  return from;
}

template <class T>
void test_grids() {
  std::mt19937 rng(3);
  for (const Grid<T>& grid : grids<T>()) {
    const size_t n = size_t(grid.points());
    for (int channels : {1, 3, 16, 17, 21, 40}) {
      const auto values = random_values<T>(rng, channels * n, -1, 1);
      for (int threads : {1, 2, 5}) {
        std::vector<T> out(values.size());
        Same<T> same;
        in_workspace(ops<T>().grid_filter_workspace(grid.view, channels, threads), [&](void* workspace) {
          out.assign(values.size(), T(-7));
          CHECK(ops<T>().grid_filter(grid.view, channels, values.data(), out.data(), threads, workspace) ==
                Status::kOk);
          same.add(out);
        });
        for (int c : {0, channels - 1}) {
          const std::vector<T> in(values.begin() + c * n, values.begin() + (c + 1) * n);
          const std::vector<T> found(out.begin() + c * n, out.begin() + (c + 1) * n);
          CHECK(near(found, grid_by_definition(grid, in), rounding<T>()));
        }
      }
    }
  }
}

// ---- mean field

template <class T>
struct Run {
  Status status;
  int iterations;
  std::vector<T> probs;
  std::vector<double> energies;
};

template <class T>
Run<T> run(MeanFieldRequest<T> request, bool free_energy) {
  Run<T> out{};
  Same<T> same;
  Same<double> same_energies;
  out.probs.resize(size_t(request.labels * request.points));
  out.energies.resize(free_energy ? size_t(request.iterations) + 1 : 0);
  request.output = out.probs.data();
  request.free_energy = free_energy ? out.energies.data() : nullptr;
  in_workspace(ops<T>().mean_field_workspace(request), [&](void* workspace) {
    out.probs.assign(out.probs.size(), T(-7));
    out.energies.assign(free_energy ? size_t(request.iterations) + 1 : 0, -7.0);
    MeanFieldRequest<T> mine = request;
    out.status = ops<T>().mean_field(mine, workspace);
    out.iterations = mine.iterations_done;
    if (out.status != Status::kOk) return;
    out.energies.resize(free_energy ? size_t(out.iterations) + 1 : 0);
    same.add(out.probs);
    if (free_energy) same_energies.add(out.energies);
  });
  return out;
}

template <class T>
bool are_probabilities(const std::vector<T>& probs, int labels) {
  const size_t n = probs.size() / size_t(labels);
  for (size_t p = 0; p < n; ++p) {
    double sum = 0;
    for (int l = 0; l < labels; ++l) {
      const double q = probs[l * n + p];
      if (!(q >= 0 && q <= 1 + 1e-5)) return false;
      sum += q;
    }
    if (!(std::fabs(sum - 1) < 1e-5)) return false;
  }
  return true;
}

bool stop_after_two(void*, int done) { return done < 2; }

// A lattice and two grids over one image, with everything that a kernel can have.
template <class T>
class Scene {
 public:
  explicit Scene(std::mt19937& rng)
      : fine({1, 11, 67}, {1, 1, 1}, {0, 2, 2}), coarse({1, 11, 67}, {1, 3, 2}, {0, 3, 4}) {
    const size_t n = size_t(fine.points());
    CHECK(lattice.build(random_values<T>(rng, 5 * n, 0, 4), 5, false, true, 2) == Status::kOk);
    norm = random_values<T>(rng, n, 0.05, 0.2);
    self = random_values<T>(rng, n, 0.01, 0.02);
  }

  KernelView<T> with_lattice() const {
    KernelView<T> kernel{};
    kernel.lattice = &lattice.view;
    return finish(kernel);
  }
  KernelView<T> with_grid(const Grid<T>& grid) const {
    KernelView<T> kernel{};
    kernel.grid = &grid.view;
    return finish(kernel);
  }

  Lattice<T> lattice;
  Grid<T> fine, coarse;
  std::vector<T> norm, self;

 private:
  KernelView<T> finish(KernelView<T> kernel) const {
    kernel.norm_in = norm.data();
    kernel.norm_out = norm.data();
    kernel.coupling_kind = Weight::kScalar;
    kernel.coupling = T(1.5);
    return kernel;
  }
};

template <class T>
void test_mean_field() {
  std::mt19937 rng(4);
  const Scene<T> scene(rng);
  const int64_t n = scene.fine.points();
  const std::vector<uint8_t> mask(size_t(n), 1);
  for (int labels : {1, 2, 3, 5, 16, 17, 21, 36}) {
    const auto unary = random_values<T>(rng, size_t(labels * n), -2, 2);
    const auto matrix = random_values<T>(rng, size_t(labels * labels), 0, 1);
    for (int variant = 0; variant < 6; ++variant) {
      std::vector<KernelView<T>> kernels;
      if (variant != 1) kernels.push_back(scene.with_lattice());
      if (variant != 2) kernels.push_back(scene.with_grid(scene.coarse));
      if (variant == 1 || variant == 4) kernels.push_back(scene.with_grid(scene.fine));
      if (variant == 5) kernels.clear();
      MeanFieldRequest<T> request{};
      request.points = n;
      request.labels = labels;
      request.unary = unary.data();
      request.unary_sign = T(-1);
      request.potts = true;
      request.iterations = 3;
      request.mask = mask.data();
      if (variant == 3) {
        kernels[0].norm_in = nullptr;
        kernels[0].self = scene.self.data();
        kernels[1].coupling_kind = Weight::kMatrix;
        kernels[1].couplings = matrix.data();
        request.potts = false;
        request.damping = T(0.25);
      }
      if (variant == 4) {
        kernels[1].coupling_kind = Weight::kVector;
        kernels[1].couplings = matrix.data();
        request.tolerance = T(1e-30);
      }
      request.kernels = kernels.data();
      request.num_kernels = int(kernels.size());
      std::vector<T> single;
      for (int threads : {1, 2, 5}) {
        request.threads = threads;
        const Run<T> plain = run(request, false), watched = run(request, true);
        CHECK(plain.status == Status::kOk && watched.status == Status::kOk);
        CHECK(are_probabilities(plain.probs, labels));
        CHECK(near(watched.probs, plain.probs, rounding<T>()));
        for (double energy : watched.energies) CHECK(std::isfinite(energy));
        CHECK(plain.iterations == 3 || (variant >= 4 && plain.iterations > 0));
        if (single.empty()) single = plain.probs;
        CHECK(near(plain.probs, single, rounding<T>()));
      }
      // From a Q, and from no iterations at all.
      request.initial = single.data();
      CHECK(are_probabilities(run(request, false).probs, labels));
      request.iterations = 0;
      CHECK(near(run(request, false).probs, single, 1e-6));
      // Interrupted, and with something that is no number.
      request.iterations = 100;
      request.tolerance = 0;
      request.checkpoint = stop_after_two;
      CHECK(run(request, false).status == Status::kInterrupted);
      auto bad = unary;
      bad[bad.size() / 2] = std::numeric_limits<T>::quiet_NaN();
      request.unary = bad.data();
      request.checkpoint = nullptr;
      CHECK(run(request, false).status == Status::kNotFinite);
      request.initial = nullptr;
      CHECK(run(request, false).status == Status::kNotFinite);
    }
  }
}

// ---- backward: every gradient against differences of the forward run, and workspaces

template <class T>
class Learnt {
 public:
  explicit Learnt(std::mt19937& rng) : grid({1, 6, 13}, {1, 2, 3}, {0, 2, 2}) {
    const size_t n = size_t(grid.points());
    CHECK(lattice.build(random_values<T>(rng, 3 * n, 0, 2), 3, false, true, 2) == Status::kOk);
    logits = random_values<T>(rng, kLabels * n, -2, 2);
    direction = random_values<T>(rng, kLabels * n, -1, 1);
    norm_in = random_values<T>(rng, n, 0.1, 0.3);
    norm_out = random_values<T>(rng, n, 0.1, 0.3);
    matrix = random_values<T>(rng, kLabels * kLabels, -1, 1);
    vector = random_values<T>(rng, kLabels, 0, 2);
    initial = random_values<T>(rng, kLabels * n, 0, 1);
  }

  static constexpr int kLabels = 3, kIterations = 3;
  Lattice<T> lattice;
  Grid<T> grid;
  std::vector<T> logits, direction, norm_in, norm_out, matrix, vector, initial, states;
  std::vector<T> grad_logits, grad_initial, grad_couplings[2], grad_weights, grad_in[2], grad_out[2];

  // <z_T, direction>; with `backward`, the gradients too.
  double loss(bool continues, int threads, bool backward = false) {
    KernelView<T> kernels[2] = {};
    kernels[0].lattice = &lattice.view;
    kernels[0].coupling_kind = Weight::kMatrix;
    kernels[0].couplings = matrix.data();
    kernels[1].grid = &grid.view;
    kernels[1].coupling_kind = Weight::kVector;
    kernels[1].couplings = vector.data();
    for (KernelView<T>& kernel : kernels) {
      kernel.norm_in = norm_in.data();
      kernel.norm_out = norm_out.data();
    }
    MeanFieldRequest<T> request{};
    request.points = grid.points();
    request.labels = kLabels;
    request.unary = logits.data();
    request.unary_sign = T(1);
    request.initial = continues ? initial.data() : nullptr;
    request.kernels = kernels;
    request.num_kernels = 2;
    request.iterations = kIterations;
    request.logits = true;
    request.threads = threads;
    states.assign(size_t(kIterations * ops<T>().mean_field_states(request)), T(0));
    request.states = states.data();
    const double value = dot(run(request, false).probs, direction);
    if (backward) gradients(request);
    return value;
  }

 private:
  void gradients(const MeanFieldRequest<T>& forward) {
    const size_t n = size_t(grid.points());
    TermGradient<T> wanted[2] = {};
    for (int k = 0; k < 2; ++k) {
      grad_couplings[k].assign(k == 0 ? kLabels * kLabels : kLabels, T(0));
      grad_in[k].assign(n, T(0));
      grad_out[k].assign(n, T(0));
      wanted[k] = {k == 0 ? Weight::kMatrix : Weight::kVector, grad_couplings[k].data(), nullptr,
                   grad_in[k].data(), grad_out[k].data()};
    }
    grad_weights.assign(lattice.weights.size(), T(0));
    wanted[0].weights = grad_weights.data();
    grad_logits.assign(logits.size(), T(-7));
    grad_initial.assign(logits.size(), T(-7));
    MeanFieldGradRequest<T> request{};
    request.forward = &forward;
    request.grad = direction.data();
    request.grad_unary = grad_logits.data();
    request.grad_initial = forward.initial ? grad_initial.data() : nullptr;
    request.gradients = wanted;
    Same<T> same;
    in_workspace(ops<T>().mean_field_backward_workspace(request), [&](void* workspace) {
      CHECK(ops<T>().mean_field_backward(request, workspace) == Status::kOk);
      same.add(grad_logits);
    });
  }
};

// The gradient at a few places against central differences (double precision).
void check_gradient(std::vector<double>* values, const std::vector<double>& grad, Learnt<double>* learnt,
                    bool continues) {
  for (size_t i = 0; i < values->size(); i += 1 + values->size() / 9) {
    const double kStep = 1e-5, was = (*values)[i];
    (*values)[i] = was + kStep;
    const double up = learnt->loss(continues, 1);
    (*values)[i] = was - kStep;
    const double down = learnt->loss(continues, 1);
    (*values)[i] = was;
    CHECK(std::fabs((up - down) / (2 * kStep) - grad[i]) < 1e-6 * (1 + std::fabs(grad[i])));
  }
}

void test_backward() {
  std::mt19937 rng(7);
  Learnt<double> learnt(rng);
  for (bool continues : {false, true}) {
    std::vector<double> one;
    for (int threads : {3, 1}) {
      learnt.loss(continues, threads, true);
      if (one.empty()) one = learnt.grad_logits;
      CHECK(near(one, learnt.grad_logits, 1e-12));
    }
    const Learnt<double> found = learnt;  // gradients of one kernel at a time: the two share their norms
    check_gradient(&learnt.logits, found.grad_logits, &learnt, continues);
    check_gradient(&learnt.matrix, found.grad_couplings[0], &learnt, continues);
    check_gradient(&learnt.vector, found.grad_couplings[1], &learnt, continues);
    check_gradient(&learnt.lattice.weights, found.grad_weights, &learnt, continues);
    std::vector<double> both_in = found.grad_in[0], both_out = found.grad_out[0];
    for (size_t p = 0; p < both_in.size(); ++p) {
      both_in[p] += found.grad_in[1][p];
      both_out[p] += found.grad_out[1][p];
    }
    check_gradient(&learnt.norm_in, both_in, &learnt, continues);
    check_gradient(&learnt.norm_out, both_out, &learnt, continues);
  }
}

// ---- features

template <class T>
void test_features() {
  const uint8_t bytes[12] = {0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 255};
  T values[12];
  for (int i = 0; i < 12; ++i) values[i] = T(bytes[i]);
  const T srgb[2] = {T(5), T(10)};
  for (int threads : {1, 3}) {
    for (bool is_uint8 : {true, false}) {
      std::vector<T> found(6 * 4, T(-7));
      ImageView<T> image{};
      image.size[0] = 1;
      image.size[1] = 2;
      image.size[2] = 3;
      image.spatial = 2;
      image.spatial_sigma[0] = T(2);
      image.spatial_sigma[1] = T(4);
      image.spatial_sigma[2] = T(1);
      image.channels = 2;
      image.image = is_uint8 ? static_cast<const void*>(bytes) : values;
      image.image_is_uint8 = is_uint8;
      image.channel_sigma = srgb;
      CHECK(ops<T>().make_features(image, threads, found.data()) == Status::kOk);
      for (int y = 0; y < 2; ++y) {
        for (int x = 0; x < 3; ++x) {
          const T* f = found.data() + 4 * (3 * y + x);
          const int at = 2 * (3 * y + x);
          CHECK(f[0] == T(x) / 2 && f[1] == T(y) / 4);
          CHECK(f[2] == values[at] / 5 && f[3] == values[at + 1] / 10);
        }
      }
    }
  }
}

template <class T>
void test_all() {
  test_features<T>();
  test_lattices<T>();
  test_wide_lattices<T>();
  test_grids<T>();
  test_mean_field<T>();
}

}  // namespace

int main() {
  test_all<float>();
  test_all<double>();
  test_backward();
  return report((std::string("test_engine, ") + backend().name).c_str());
}
