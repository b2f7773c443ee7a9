// What the filtered probabilities of one term add to the scores: rows += E message, E a number, a diagonal or
// a matrix.
#pragma once
#include "cpu/rows.h"
#include "densecrf.h"

DENSECRF_BEGIN

// rows[p] += M in[p] for P points and the W channels from `column` on, M given transposed and padded: [L,
// stride].  P points share each load of M, and their sums stay in registers.
template <class T, int W, int P>
inline void add_matrix_points(int labels, int stride, const T* transposed, int column, const T* in, T* rows) {
  Row<T, W> sum[P];
  for (int p = 0; p < P; ++p) sum[p] = Row<T, W>::load(rows + int64_t(p) * stride + column);
  for (int l = 0; l < labels; ++l) {
    const auto line = Row<T, W>::load(transposed + int64_t(l) * stride + column);
    for (int p = 0; p < P; ++p) sum[p].add_scaled(in[int64_t(p) * stride + l], line);
  }
  for (int p = 0; p < P; ++p) sum[p].store(rows + int64_t(p) * stride + column);
}

template <class T>
[[gnu::noinline]] inline void add_matrix(int count, const SlabPlan& plan, int labels, const T* transposed,
                                         const T* in, T* rows) {
  constexpr int kTogether = 4;
  const int stride = plan.stride();
  for (int s = 0; s < plan.slabs(); ++s) {
    for_width(plan.width(s), [&](auto w) {
      constexpr int W = decltype(w)::value;
      const int column = plan.column(s);
      int64_t p = 0;
      for (; p + kTogether <= count; p += kTogether)
        add_matrix_points<T, W, kTogether>(labels, stride, transposed, column, in + p * stride,
                                           rows + p * stride);
      for (; p < count; ++p)
        add_matrix_points<T, W, 1>(labels, stride, transposed, column, in + p * stride, rows + p * stride);
    });
  }
}

// sums[l] += sum over the points of v[p, l] q[p], l = 0 ... P - 1, for the W channels from `column` on.
template <class T, int W, int P>
inline void add_outer_lines(int count, int stride, int column, const T* v, const T* q, T* sums) {
  Row<T, W> sum[P];
  for (int l = 0; l < P; ++l) sum[l] = Row<T, W>::zero();
  for (int64_t p = 0; p < count; ++p) {
    const auto row = Row<T, W>::load(q + p * stride + column);
    for (int l = 0; l < P; ++l) sum[l].add_scaled(v[p * stride + l], row);
  }
  for (int l = 0; l < P; ++l) sum[l].store(sums + int64_t(l) * stride + column);
}

// sums = sum over the points of v q^T: [L, stride].
template <class T>
[[gnu::noinline]] inline void outer_product(int count, const SlabPlan& plan, int labels, const T* v,
                                            const T* q, T* sums) {
  constexpr int kTogether = 4;
  const int stride = plan.stride();
  for (int s = 0; s < plan.slabs(); ++s) {
    for_width(plan.width(s), [&](auto w) {
      constexpr int W = decltype(w)::value;
      int64_t l = 0;
      for (; l + kTogether <= labels; l += kTogether)
        add_outer_lines<T, W, kTogether>(count, stride, plan.column(s), v + l, q, sums + l * stride);
      for (; l < labels; ++l)
        add_outer_lines<T, W, 1>(count, stride, plan.column(s), v + l, q, sums + l * stride);
    });
  }
}

// E with its rows padded to the stride.
template <class T>
class Coupling {
 public:
  // transposable: apply_transposed() will be called, too.
  void layout(const KernelView<T>& kernel, int labels, const SlabPlan& plan, Arena* arena,
              bool transposable = false) {
    kind_ = kernel.coupling_kind;
    labels_ = labels;
    plan_ = plan;
    stride_ = plan.stride();
    const int stride = stride_;
    scalar_ = kernel.coupling;
    given_ = kernel.couplings;
    const int64_t size = kind_ == Weight::kScalar   ? 0
                         : kind_ == Weight::kVector ? stride
                                                    : int64_t(labels) * stride;
    values_ = arena->template take<T>(size);
    transposed_ = transposable && kind_ == Weight::kMatrix ? arena->template take<T>(size) : nullptr;
  }
  void fill() {
    for (int c = 0; c < stride_ && kind_ == Weight::kVector; ++c) values_[c] = c < labels_ ? given_[c] : T(0);
    for (int l = 0; l < labels_ && kind_ == Weight::kMatrix; ++l) {
      for (int c = 0; c < stride_; ++c) {
        const int64_t at = int64_t(l) * stride_ + c;
        values_[at] = c < labels_ ? given_[int64_t(c) * labels_ + l] : T(0);
        if (transposed_) transposed_[at] = c < labels_ ? given_[int64_t(l) * labels_ + c] : T(0);
      }
    }
  }

  bool is_scalar() const { return kind_ == Weight::kScalar; }
  T scalar() const { return scalar_; }
  // rows += E in, and rows += E^T in
  void apply(int count, const T* in, T* rows) const { add(count, values_, in, rows); }
  void apply_transposed(int count, const T* in, T* rows) const { add(count, transposed_, in, rows); }

 private:
  void add(int count, const T* matrix, const T* in, T* rows) const {
    if (kind_ == Weight::kMatrix) return add_matrix(count, plan_, labels_, matrix, in, rows);
    for (int p = 0; p < count; ++p, in += stride_, rows += stride_) {
      if (kind_ == Weight::kVector)
        for (int c = 0; c < stride_; ++c) rows[c] += values_[c] * in[c];
      else
        for (int c = 0; c < stride_; ++c) rows[c] += scalar_ * in[c];
    }
  }

  Weight kind_ = Weight::kScalar;
  SlabPlan plan_ = SlabPlan(0);
  int labels_ = 0, stride_ = 0;
  T scalar_ = 0;
  const T* given_ = nullptr;
  T* values_ = nullptr;      // [stride], or the matrix transposed: [L, stride]
  T* transposed_ = nullptr;  // the matrix: [L, stride]
};

DENSECRF_END
