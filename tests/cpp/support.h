// What the C++ tests share: checks, workspaces between guards, random lattices and grids.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "densecrf.h"

using namespace densecrf;

namespace {

int failures = 0;

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      if (++failures > 20) std::exit(1);                                  \
    }                                                                     \
  } while (false)

// A program's last line and its exit status.
inline int report(const char* test) {
  std::printf("%s: %s\n", test, failures ? "failed" : "all is well");
  return failures ? 1 : 0;
}

template <class T>
const Ops<T>& ops() {
  if constexpr (std::is_same_v<T, float>)
    return backend().f32;
  else
    return backend().f64;
}

template <class T>
constexpr double rounding() {
  return std::is_same_v<T, float> ? 1e-4 : 1e-11;
}

// ---- workspaces

// Runs body(workspace) in exactly `bytes` bytes: once on the heap, where a sanitizer sees every step beyond,
// and once at an odd address between guards.  What the memory holds before must not matter: the caller
// compares the results.
template <class Body>
void in_workspace(size_t bytes, Body body) {
  CHECK(bytes > 0);
  void* heap = std::malloc(bytes);
  std::memset(heap, 0, bytes);
  body(heap);
  std::free(heap);

  constexpr size_t kGuard = 256;
  for (size_t offset : {size_t(8), size_t(56)}) {
    std::vector<unsigned char> block(bytes + 2 * kGuard + offset, 0xA5);
    unsigned char* begin = block.data() + kGuard + offset;
    std::memset(begin, 0xFF, bytes);  // NaN in either precision, and -1
    body(begin);
    bool intact = true;
    for (unsigned char* p = block.data(); p < begin; ++p) intact = intact && *p == 0xA5;
    for (unsigned char* p = begin + bytes; p < block.data() + block.size(); ++p)
      intact = intact && *p == 0xA5;
    CHECK(intact);
  }
}

// The results of all runs of in_workspace are the same, bit for bit.
template <class T>
class Same {
 public:
  void add(const std::vector<T>& result) {
    if (first_.empty()) first_ = result;
    CHECK(result.empty() || std::memcmp(first_.data(), result.data(), result.size() * sizeof(T)) == 0);
  }

 private:
  std::vector<T> first_;
};

template <class T>
std::vector<T> random_values(std::mt19937& rng, size_t n, double low, double high) {
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<T> out(n);
  for (T& x : out) x = T(uniform(rng));
  return out;
}

template <class T>
bool near(const std::vector<T>& a, const std::vector<T>& b, double tolerance) {
  double most = 0, error = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    most = std::fmax(most, std::fabs(double(b[i])));
    double e = std::fabs(double(a[i]) - double(b[i]));
    if (!(e <= error)) error = e;  // NaN too
  }
  return a.size() == b.size() && error <= tolerance * std::fmax(most, 1.0);
}

// ---- lattice

template <class T>
struct Lattice {
  std::vector<T> weights;
  std::vector<int32_t> simplex, simplex_vertices, chains;
  std::vector<int64_t> chain_starts;
  LatticeView<T> view{};

  Status build(const std::vector<T>& features, int d, bool pad_origin, bool bridges, int threads) {
    const int64_t points = int64_t(features.size()) / d;
    simplex.assign(points, -1);
    weights.assign(points * (d + 1), T(-1));
    LatticeRequest<T> request{};
    request.features = features.data();
    request.points = points;
    request.dims = d;
    request.scale = (d + 1) * std::sqrt(2.0 / 3.0);
    request.pad_origin = pad_origin;
    request.bridges = bridges;
    request.threads = threads;
    request.simplex = simplex.data();
    request.weights = weights.data();
    simplex_vertices.assign((points + 1) * (d + 1), -1);
    chain_starts.assign(d + 2, -1);
    request.simplex_vertices = simplex_vertices.data();
    request.chain_starts = chain_starts.data();
    LatticeResult result;
    Status status = ops<T>().lattice_build(request, &result);
    if (status == Status::kOk) take(result, points, d);
    release(result.chains);
    return status;
  }

 private:
  void take(const LatticeResult& result, int64_t points, int d) {
    simplex_vertices.resize(result.simplices * (d + 1));
    const auto* first = static_cast<const int32_t*>(result.chains.data);
    chains.assign(first, first + chain_starts.back());
    view.points = points;
    view.dims = d;
    view.simplices = result.simplices;
    view.vertices = result.vertices;
    view.simplex = simplex.data();
    view.weights = weights.data();
    view.simplex_vertices = simplex_vertices.data();
    view.chains = chains.data();
    view.chain_starts = chain_starts.data();
    view.blur = T(0.5);
    view.alpha = T(1 / (1 + std::pow(2.0, -d)));
  }
};

// ---- grid

template <class T>
struct Grid {
  std::vector<T> taps[kGridAxes];
  GridView<T> view{};

  // Any symmetric taps will do here: falling from 1 to 1/2.
  Grid(std::vector<int64_t> size, std::vector<int> spacing, std::vector<int> radius) {
    for (int a = 0; a < kGridAxes; ++a) {
      for (int k = 0; k <= radius[a]; ++k) taps[a].push_back(T(1) - T(k) / T(2 * radius[a] + 1));
      view.size[a] = size[a];
      view.spacing[a] = spacing[a];
      view.radius[a] = radius[a];
      view.taps[a] = taps[a].data();
    }
  }
  int64_t points() const { return view.size[0] * view.size[1] * view.size[2]; }

  // What pixel j sends to pixel i along one axis, by the definition.
  double weight(int axis, int64_t i, int64_t j) const {
    double sum = 0;
    for (int a = 0; a < 2; ++a) {
      for (int b = 0; b < 2; ++b) {
        const int64_t offset = std::llabs(node(axis, i) + a - node(axis, j) - b);
        if (offset <= view.radius[axis]) sum += tent(axis, i, a) * tent(axis, j, b) * taps[axis][offset];
      }
    }
    return sum;
  }

 private:
  int64_t node(int axis, int64_t i) const { return i / view.spacing[axis]; }
  double tent(int axis, int64_t i, int side) const {
    const int s = view.spacing[axis];
    const double f = s == 1 ? 0 : (double(i % s) + 0.5) / s;
    return side ? f : 1 - f;
  }
};

template <class T>
std::vector<Grid<T>> grids() {
  std::vector<Grid<T>> out;
  out.emplace_back(std::vector<int64_t>{1, 1, 1}, std::vector<int>{1, 1, 1}, std::vector<int>{0, 0, 0});
  out.emplace_back(std::vector<int64_t>{1, 1, 150}, std::vector<int>{1, 1, 4}, std::vector<int>{0, 0, 3});
  out.emplace_back(std::vector<int64_t>{1, 9, 70}, std::vector<int>{1, 1, 1}, std::vector<int>{0, 2, 5});
  out.emplace_back(std::vector<int64_t>{1, 13, 17}, std::vector<int>{1, 2, 3}, std::vector<int>{0, 4, 3});
  out.emplace_back(std::vector<int64_t>{1, 5, 6}, std::vector<int>{1, 40, 9}, std::vector<int>{0, 6, 6});
  out.emplace_back(std::vector<int64_t>{6, 7, 9}, std::vector<int>{1, 2, 1}, std::vector<int>{2, 3, 1});
  out.emplace_back(std::vector<int64_t>{7, 6, 5}, std::vector<int>{3, 1, 2}, std::vector<int>{3, 1, 2});
  out.emplace_back(std::vector<int64_t>{5, 1, 1}, std::vector<int>{2, 1, 1}, std::vector<int>{3, 0, 0});
  return out;
}

}  // namespace
