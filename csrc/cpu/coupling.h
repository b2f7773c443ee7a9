// What the filtered probabilities of one term add to the scores: rows += E message, E a number, a diagonal or
// a matrix.
#pragma once
#include "cpu/buffer.h"
#include "densecrf.h"

DENSECRF_BEGIN

// rows[p] += M in[p], for M given transposed and padded: [L, stride].
template <class T>
inline void add_matrix(int count, int labels, int stride, const T* transposed, const T* in, T* rows) {
  for (int p = 0; p < count; ++p) {
    for (int l = 0; l < labels; ++l) {
      const T f = in[int64_t(p) * stride + l];
      const T* column = transposed + int64_t(l) * stride;
      T* row = rows + int64_t(p) * stride;
      for (int c = 0; c < stride; ++c) row[c] += f * column[c];
    }
  }
}

// E with its rows padded to the stride.
template <class T>
class Coupling {
 public:
  // transposable: apply_transposed() will be called, too.
  void layout(const KernelView<T>& kernel, int labels, int stride, Arena* arena, bool transposable = false) {
    kind_ = kernel.coupling_kind;
    labels_ = labels;
    stride_ = stride;
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
    if (kind_ == Weight::kMatrix) return add_matrix(count, labels_, stride_, matrix, in, rows);
    for (int p = 0; p < count; ++p, in += stride_, rows += stride_) {
      if (kind_ == Weight::kVector)
        for (int c = 0; c < stride_; ++c) rows[c] += values_[c] * in[c];
      else
        for (int c = 0; c < stride_; ++c) rows[c] += scalar_ * in[c];
    }
  }

  Weight kind_ = Weight::kScalar;
  int labels_ = 0, stride_ = 0;
  T scalar_ = 0;
  const T* given_ = nullptr;
  T* values_ = nullptr;      // [stride], or the matrix transposed: [L, stride]
  T* transposed_ = nullptr;  // the matrix: [L, stride]
};

DENSECRF_END
