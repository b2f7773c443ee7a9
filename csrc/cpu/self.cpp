// The diagonal of the lattice filter: what a point sends to itself.
//
// A vertex of the point's simplex reaches another one, m steps up along the simplex's own order, in two ways:
// one step up along each of those m axes, or one step down along each of the other d+1-m (all d+1 steps
// together lead back).  The blur takes the axes one after the other, so a way counts only if every vertex
// that it passes exists.
#include "cpu/buffer.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"

DENSECRF_BEGIN

namespace {

template <class T>
class SelfMessage {
 public:
  // links: [d+1, M, 2], vertex one step down and up each axis, or M.
  SelfMessage(const LatticeView<T>& lattice, const int32_t* links)
      : lattice_(lattice), links_(links), corners_(lattice.dims + 1) {}

  static void link(const LatticeView<T>& lattice, int axis, int32_t* links) {
    int32_t* out = links + 2 * lattice.vertices * axis;
    for (int64_t i = 0; i < 2 * lattice.vertices; ++i) out[i] = int32_t(lattice.vertices);
    for (int64_t i = lattice.chain_starts[axis]; i < lattice.chain_starts[axis + 1]; ++i) {
      if (lattice.chains[i] < 0) continue;
      const int32_t next = lattice.chains[i + 1] < 0 ? ~lattice.chains[i + 1] : lattice.chains[i + 1];
      out[2 * int64_t(lattice.chains[i]) + 1] = next;
      out[2 * int64_t(next)] = lattice.chains[i];
    }
  }

  // Blur coefficients between the corners of one simplex: out[from * corners + to].
  void coefficients(int64_t simplex, T* out) const {
    const int32_t* id = lattice_.simplex_vertices + simplex * corners_;
    int axis[kMaxDims + 1];  // axis[k]: the step up from corner k to corner k + 1
    for (int k = 0; k < corners_; ++k) axis[k] = axis_between(id[k], id[(k + 1) % corners_]);
    for (int from = 0; from < corners_; ++from) {
      for (int to = 0; to < corners_; ++to) {
        bool up[kMaxDims + 1] = {};
        for (int k = from; k != to; k = (k + 1) % corners_) up[axis[k]] = true;
        T sum = walk(id[from], id[to], up, true) + walk(id[from], id[to], up, false);
        if (from == to)
          sum += T(1) + walk_all(id[from], true);  // stay; all steps up (all steps down was counted above)
        out[from * corners_ + to] = sum;
      }
    }
  }

 private:
  int32_t neighbour(int32_t v, int axis, bool up) const {
    return links_[2 * (lattice_.vertices * axis + v) + up];
  }
  int axis_between(int32_t from, int32_t to) const {
    for (int a = 0; a < corners_; ++a) {
      if (neighbour(from, a, true) == to) return a;
    }
    return 0;
  }
  // Steps up along the marked axes, or down along the others; the product of the blur weights, or 0.
  T walk(int32_t from, int32_t to, const bool* marked, bool up) const {
    T weight = 1;
    int32_t v = from;
    bool moved = false;
    for (int a = 0; a < corners_; ++a) {
      if (marked[a] != up) continue;
      v = neighbour(v, a, up);
      if (v == lattice_.vertices) return 0;
      weight *= lattice_.blur;
      moved = true;
    }
    return moved && v == to ? weight : T(0);
  }
  T walk_all(int32_t from, bool up) const {
    bool marked[kMaxDims + 1];
    for (int a = 0; a < corners_; ++a) marked[a] = up;
    return walk(from, from, marked, up);
  }

  const LatticeView<T>& lattice_;
  const int32_t* links_;
  int corners_;
};

}  // namespace

template <class T>
Status lattice_self(const LatticeView<T>& lattice, int threads, T* diagonal) {
  const int corners = lattice.dims + 1;
  Buffer<T> coefficients;
  Buffer<int32_t> links;
  if (!coefficients.resize(lattice.simplices * corners * corners) ||
      !links.resize(2 * lattice.vertices * corners))
    return Status::kOutOfMemory;
  parallel(threads, [&](Team& team, int thread) {
    for (int axis = thread; axis < corners; axis += team.size())
      SelfMessage<T>::link(lattice, axis, links.data());
    team.barrier();
    SelfMessage<T> self(lattice, links.data());
    Range simplices = band(lattice.simplices, team.size(), thread);
    for (int64_t s = simplices.begin; s < simplices.end; ++s)
      self.coefficients(s, &coefficients[s * corners * corners]);
    team.barrier();
    Range points = band(lattice.points, team.size(), thread);
    for (int64_t p = points.begin; p < points.end; ++p) {
      const T* w = lattice.weights + p * corners;
      const T* b = &coefficients[int64_t(lattice.simplex[p]) * corners * corners];
      T sum = 0;
      for (int i = 0; i < corners; ++i) {
        for (int j = 0; j < corners; ++j) sum += w[i] * w[j] * b[i * corners + j];
      }
      diagonal[p] = lattice.alpha * sum;
    }
  });
  return Status::kOk;
}

template Status lattice_self(const LatticeView<float>&, int, float*);
template Status lattice_self(const LatticeView<double>&, int, double*);

DENSECRF_END
