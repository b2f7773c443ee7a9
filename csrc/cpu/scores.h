// The scores of all points, which every iteration reads once: rows of floats or, where the caller allows it
// and they outgrow the second-level cache, of half precision.
#pragma once
#include "cpu/float16.h"

DENSECRF_BEGIN

template <class T>
class Scores {
 public:
  void layout(int64_t points, int stride, bool float16, Arena* arena) {
    stride_ = stride;
    in_float16_ = float16 && stride % kStep == 0 && better_in_float16<T>(points * stride, stride);
    floats_ = arena->template take<T>(in_float16_ ? 0 : points * stride);
    halves_ = arena->template take<Float16>(in_float16_ ? points * stride : 0);
  }
  bool in_float16() const { return in_float16_; }
  // Rows of the points from `first` on, in either form.
  T* floats(int64_t first) const { return floats_ + first * stride_; }
  Float16* halves(int64_t first) const { return halves_ + first * stride_; }

  void keep_in_float16(int64_t first, int count, const T* rows) const {
    if constexpr (kHalves<T>) {
      for (int64_t i = 0; i < int64_t(count) * stride_; i += kStep)
        store_row(Row<T, kStep>::load(rows + i), halves(first) + i);
    }
  }

 private:
  static constexpr int kStep = 8;

  int stride_ = 0;
  bool in_float16_ = false;
  T* floats_ = nullptr;  // [N, stride]
  Float16* halves_ = nullptr;
};

DENSECRF_END
