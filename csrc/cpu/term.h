// One pairwise term of a mean field run while a team of threads works on it: its kernel's values on the
// lattice or the grid, with the normalisation around them.
#pragma once
#include <cmath>
#include <new>

#include "cpu/coupling.h"
#include "cpu/grid_field.h"
#include "cpu/lattice_field.h"

DENSECRF_BEGIN

// What a vertex of the kernel's lattice receives at most of values between 0 and 1, where half precision is
// allowed.  Under the normalisation "after", norm_in is at most 1.  Under the symmetric one, a single array:
// with s the sums of weights on the vertices, (K 1)_p is alpha w_pv s_v or more at each of the point's
// vertices, so that v receives sum_p w_pv / sqrt((K 1)_p), at most sum_p sqrt(w_pv / (alpha s_v)) and, by
// Cauchy and Schwarz, sqrt(N / alpha).
template <class T>
inline double largest_sum(const KernelView<T>& kernel) {
  const double points = double(kernel.lattice->points);
  return kernel.norm_in == kernel.norm_out ? std::sqrt(points / double(kernel.lattice->alpha)) : points;
}

template <class T>
class Term {
 public:
  KernelView<T> view = {};
  Coupling<T> coupling;

  // Filtered values are kept in `kept`, or in the workspace as long as they are wanted; where that is
  // allowed, in half precision.
  void layout(const KernelView<T>& kernel, const SlabPlan& plan, int threads, Arena* arena,
              Rounds<T> kept = {}, bool float16 = false) {
    view = kernel;
    if (view.lattice)
      lattice_.layout(*view.lattice, plan, threads, arena, kept, float16 ? largest_sum(kernel) : INFINITY);
    else
      grid_.layout(*view.grid, plan, threads, arena, kept, float16);
  }
  // A grid's filter, of what is splatted into another term's grid.
  void layout_probe(const KernelView<T>& kernel, const SlabPlan& plan, int threads, Arena* arena,
                    const Term& of) {
    view = kernel;
    grid_.layout(*view.grid, plan, threads, arena, {}, false, &of.grid_);
  }
  // For a term whose values are all there to be sliced.
  void layout_to_read(const KernelView<T>& kernel, const SlabPlan& plan, Rounds<T> kept) {
    view = kernel;
    if (view.lattice)
      lattice_.layout_to_read(*view.lattice, plan, kept);
    else
      grid_.layout_to_read(*view.grid, plan, kept);
  }
  // Length of one round's filtered values.
  static int64_t values(const KernelView<T>& kernel, const SlabPlan& plan) {
    return kernel.lattice ? kernel.lattice->vertices * plan.stride()
                          : GridField<T>::values(*kernel.grid, plan);
  }

  // Called once by every thread before the first splat, with the points that it will splat, whole rows of a
  // grid.
  void start(int thread, Range points) {
    if (view.lattice) return lattice_.start(thread, points);
    const int64_t width = view.grid->size[2];
    grid_.start(thread, {points.begin / width, points.end / width});
  }
  void clear(int thread, int round) {
    if (view.lattice) lattice_.clear(thread, round);
  }
  void splat(int thread, int64_t first, int count, int round, const T* rows) {
    if (view.lattice)
      return lattice_.splat(lattice_.accumulator(thread, round), first, count, rows, view.norm_in);
    const int64_t width = view.grid->size[2], x = first % width;
    grid_.splat(thread, first / width, x, count, round, rows, view.norm_in);
  }
  // A row of points of which nothing is splatted, in its turn.
  void leave_out(int thread, int64_t first, int round) {
    if (!view.lattice) grid_.leave_out(thread, first / view.grid->size[2], round);
  }
  // Between barriers on either side.
  void filter(Team& team, int thread, int round, bool transpose) {
    if (view.lattice)
      lattice_.blur(team, thread, round, transpose);
    else
      grid_.filter(team, thread, round);  // its own transpose
  }
  // out = in + gain * filtered values, with and without the normalisation
  void slice(int thread, int64_t first, int count, int round, T gain, const T* in, T* out) {
    slice_scaled(thread, first, count, round, gain, in, view.norm_out, out);
  }
  // Of a grid: slice() where `in` is in half precision.
  void slice_onto_float16(int thread, int64_t first, int count, int round, T gain, const Float16* in,
                          T* out) {
    if constexpr (kHalves<T>) {
      const int64_t width = view.grid->size[2];
      grid_.slice(thread, first / width, first % width, count, round, gain, in, view.norm_out, out);
    }
  }
  void slice_without_norm(int thread, int64_t first, int count, int round, const T* in, T* out) {
    slice_scaled(thread, first, count, round, T(1), in, nullptr, out);
  }
  // Adds gain * norm * rows against the filtered values of each point's corners: a gradient [N, d+1] of the
  // barycentric weights (lattices).
  void add_weights_grad(int64_t first, int count, int round, T gain, const T* rows, T* grad) const {
    lattice_.corner_dots(lattice_.blurred(round), first, count, rows, gain * view.lattice->alpha,
                         view.norm_out, grad);
  }

 private:
  void slice_scaled(int thread, int64_t first, int count, int round, T gain, const T* in, const T* norm,
                    T* out) {
    if (view.lattice) {
      return lattice_.slice(round, first, count, in, gain * view.lattice->alpha, norm, out);
    }
    const int64_t width = view.grid->size[2], x = first % width;
    grid_.slice(thread, first / width, x, count, round, gain, in, norm, out);
  }

  LatticeField<T> lattice_;
  GridField<T> grid_;
};

// Whether messages only add to scores, whose largest is 0; of one label, Q is to be exactly 1.
template <class T>
inline bool messages_not_negative(const MeanFieldRequest<T>& r) {
  bool all = r.labels > 1;
  for (int k = 0; k < r.num_kernels; ++k) {
    const KernelView<T>& kernel = r.kernels[k];
    all = all && kernel.coupling_kind == Weight::kScalar && !kernel.self && kernel.coupling >= 0;
  }
  return all;
}

// Whether the first term's slice can add to scores in half precision: it is one of a grid, and what messages
// can make up for is stored within 1/128 (32 and less below the largest).
template <class T>
inline bool first_term_takes_float16(const MeanFieldRequest<T>& r) {
  bool bounded = r.num_kernels > 0 && !r.kernels[0].lattice;
  double most = 0;
  for (int k = 0; k < r.num_kernels; ++k) {
    const KernelView<T>& kernel = r.kernels[k];
    bounded = bounded && kernel.coupling_kind == Weight::kScalar;
    most += std::fabs(double(kernel.coupling));
  }
  return bounded && most <= 32;
}

// The terms need constructors, so they do not live in the workspace.
template <class T>
class Terms {
 public:
  explicit Terms(int n) : terms_(new (std::nothrow) Term<T>[size_t(n > 0 ? n : 1)]) {}
  Terms(const Terms&) = delete;
  Terms& operator=(const Terms&) = delete;
  ~Terms() { delete[] terms_; }
  Term<T>* get() { return terms_; }

 private:
  Term<T>* terms_;
};

DENSECRF_END
