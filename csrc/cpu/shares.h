// The points of a run, cut into one stretch for each thread that should take about equally long.
//
// Equal numbers of points do not: in a street the half with the sky is done a sixth earlier.  A point that
// lies in another simplex than its neighbour costs more, and more still where no point before it was: its
// vertices are in no cache yet (weights fitted to the threads' times on six photographs).
#pragma once
#include "cpu/buffer.h"
#include "cpu/parallel.h"
#include "densecrf.h"

DENSECRF_BEGIN

template <class T>
class Shares {
 public:
  // Borders lie between rows of so many points.
  void layout(const KernelView<T>* kernels, int num_kernels, int64_t points, int64_t row_points, int threads,
              Arena* arena) {
    kernels_ = kernels;
    num_kernels_ = threads > 1 ? num_kernels : 0;
    points_ = points;
    row_points_ = row_points;
    rows_ = (points + row_points - 1) / row_points;
    int64_t simplices = 0;
    for (int k = 0; k < num_kernels_; ++k) {
      if (kernels[k].lattice) simplices = larger(simplices, kernels[k].lattice->simplices);
    }
    simplices_ = simplices;
    met_ = arena->template take<uint8_t>(simplices);
    until_ = arena->template take<int64_t>(rows_ + 1);
  }
  void fill() {
    for (int64_t row = 0; row <= rows_; ++row) until_[row] = row * row_points_ * kPoint;
    for (int k = 0; k < num_kernels_; ++k) {
      if (kernels_[k].lattice) add(kernels_[k].lattice->simplex);
    }
  }

  Range of(int parts, int index) const { return {border(parts, index), border(parts, index + 1)}; }

 private:
  static constexpr int kPoint = 5, kOther = 2, kNew = 4;
  static constexpr int kSample = 4;  // one row of so many is looked at

  void add(const int32_t* simplex) {
    std::memset(met_, 0, size_t(simplices_));
    int64_t sum = 0;
    for (int64_t row = 0; row < rows_; row += kSample) {
      const int64_t end = smaller((row + 1) * row_points_, points_);
      int64_t others = 0, fresh = 0;
      int32_t last = -1;
      for (int64_t i = row * row_points_; i < end; ++i) {
        others += simplex[i] != last;
        last = simplex[i];
        fresh += 1 - met_[last];
        met_[last] = 1;
      }
      for (int64_t r = row; r < smaller(row + kSample, rows_); ++r) {
        sum += others * kOther + fresh * kNew;
        until_[r + 1] += sum;
      }
    }
  }
  int64_t border(int parts, int index) const {
    int64_t low = 0, high = rows_;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (until_[middle] * parts < until_[rows_] * index)
        low = middle + 1;
      else
        high = middle;
    }
    return smaller(low * row_points_, points_);
  }

  const KernelView<T>* kernels_ = nullptr;
  int num_kernels_ = 0;
  int64_t points_ = 0, row_points_ = 1, rows_ = 0, simplices_ = 0;
  uint8_t* met_ = nullptr;    // simplices that a row looked at has met
  int64_t* until_ = nullptr;  // cost of all rows before a row
};

DENSECRF_END
