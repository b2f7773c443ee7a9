// The Gaussian filter as it is defined, over all pairs of points: sum_j exp(-|f_i - f_j|^2 / 2) v_j.
//
// A group of points i meets a tile of points j at a time: the kernel values of the pairs stay in the
// first-level cache, the sums in registers.  Tiles that are too far off for any digit are left out.
#include "core/arena.h"
#include "cpu/exp.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"
#include "cpu/points.h"

DENSECRF_BEGIN

namespace {

constexpr int kTile = 128;

// sums[g] += sum_j kernel[g, j] rows[j]
template <class T, int W, int GROUP>
[[gnu::noinline]] void add_tile(const T* kernel, const T* rows, int count, int stride, T* sums) {
  Row<T, W> sum[GROUP];
  for (int g = 0; g < GROUP; ++g) sum[g] = Row<T, W>::load(sums + g * stride);
  for (int j = 0; j < count; ++j) {
    const auto row = Row<T, W>::load(rows + j * W);
    for (int g = 0; g < GROUP; ++g) sum[g].add_scaled(kernel[g * kTile + j], row);
  }
  for (int g = 0; g < GROUP; ++g) sum[g].store(sums + g * stride);
}

// out[j] = exp(-|f_j - point|^2 / 2) for a tile of features in columns, `step` from one to the next.
template <class T>
[[gnu::noinline]] void kernel_of_tile(const T* columns, int64_t step, int dims, const T* point, T* out) {
  constexpr int kBlock = 2 * kVectorBytes / int(sizeof(T));
  for (int j = 0; j < kTile; j += kBlock) {
    auto sum = Row<T, kBlock>::zero();
    for (int c = 0; c < dims; ++c) {
      auto difference = Row<T, kBlock>::load(columns + c * step + j);
      difference.add(-point[c]);
      difference.multiply(difference);
      sum.add_scaled(T(-0.5), difference);
    }
    sum.store(out + j);
  }
  for (int j = 0; j < kTile; ++j) out[j] = exp_bounded(out[j]);
}

template <class T>
class ExactFilter {
 public:
  ExactFilter(const ExactRequest<T>& request, Arena* arena) : r_(request), plan_(request.channels) {
    tiles_ = (r_.points + kTile - 1) / kTile;
    columns_ = arena->template take<T>(r_.dims * tiles_ * kTile);
    low_ = arena->template take<T>(r_.dims * tiles_);
    high_ = arena->template take<T>(r_.dims * tiles_);
    rows_ = arena->template take<T>(r_.points * plan_.stride());
    for (int t = 0; t < r_.threads; ++t) {
      kernel_[t] = arena->template take<T>(kGroup * kTile);
      sums_[t] = arena->template take<T>(kGroup * plan_.stride());
    }
  }

  bool run() {
    int size = 1;
    parallel(r_.threads, [&](Team& team, int thread) {
      if (thread == 0) size = team.size();
      finite_[thread] = true;
      const Range tiles = band(tiles_, team.size(), thread);
      for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) load(thread, tile);
      team.barrier();
      const Range mine = band(r_.end - r_.begin, team.size(), thread, kGroup);
      for (int64_t i = mine.begin; i < mine.end; i += kGroup)
        sum_up(thread, r_.begin + i, int(smaller<int64_t>(kGroup, mine.end - i)));
    });
    for (int t = 0; t < size; ++t) {
      if (!finite_[t]) return false;
    }
    return true;
  }

 private:
  static constexpr int kGroup = 16 / int(sizeof(T));  // with rows of 24 channels, what registers hold

  // A tile's features as columns, padded with its last point, their bounds, and its values as rows.
  void load(int thread, int64_t tile) {
    const int64_t first = tile * kTile;
    const int count = int(smaller<int64_t>(kTile, r_.points - first));
    for (int c = 0; c < r_.dims; ++c) {
      T* column = columns_ + c * tiles_ * kTile + first;
      T low = r_.features[first * r_.dims + c], high = low;
      for (int j = 0; j < kTile; ++j) {
        column[j] = r_.features[(first + smaller(j, count - 1)) * r_.dims + c];
        low = smaller(low, column[j]);
        high = larger(high, column[j]);
      }
      low_[tile * r_.dims + c] = low;
      high_[tile * r_.dims + c] = high;
    }
    for_chunks(first, first + count, r_.points, [&](int64_t i, int some) {
      for (int s = 0; s < plan_.slabs(); ++s) {
        const int column = plan_.column(s), width = plan_.width(s);
        const int channels = smaller(width, r_.channels - column);
        if (!load_points(r_.values + column * r_.points, r_.points, channels, i, some, width,
                         slab(s) + i * width))
          finite_[thread] = false;
      }
    });
  }

  void sum_up(int thread, int64_t first, int count) {
    T *kernel = kernel_[thread], *sums = sums_[thread];
    const int stride = plan_.stride();
    for (int i = 0; i < kGroup * stride; ++i) sums[i] = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      if (far(tile, first, count)) continue;
      const int64_t begin = tile * kTile;
      for (int g = 0; g < kGroup; ++g) {
        const int64_t i = first + smaller(g, count - 1);
        kernel_of_tile(columns_ + begin, tiles_ * kTile, r_.dims, r_.features + i * r_.dims,
                       kernel + g * kTile);
        if (!r_.self && begin <= i && i < begin + kTile) kernel[g * kTile + (i - begin)] = 0;
      }
      const int points = int(smaller<int64_t>(kTile, r_.points - begin));
      for (int s = 0; s < plan_.slabs(); ++s) {
        for_width(plan_.width(s), [&](auto w) {
          constexpr int W = decltype(w)::value;
          add_tile<T, W, kGroup>(kernel, slab(s) + begin * W, points, stride, sums + plan_.column(s));
        });
      }
    }
    for (int c = 0; c < r_.channels; ++c) {
      T* out = r_.out + c * (r_.end - r_.begin) + (first - r_.begin);
      for (int g = 0; g < count; ++g) out[g] = sums[g * stride + c];
    }
  }

  bool far(int64_t tile, int64_t first, int count) const {
    for (int g = 0; g < count; ++g) {
      const T* point = r_.features + (first + g) * r_.dims;
      T squares = 0;
      for (int c = 0; c < r_.dims; ++c) {
        const T low = low_[tile * r_.dims + c], high = high_[tile * r_.dims + c];
        const T beyond = larger(larger(low - point[c], point[c] - high), T(0));
        squares += beyond * beyond;
      }
      if (!(T(-0.5) * squares < ExpTraits<T>::kLowest)) return false;
    }
    return true;
  }

  T* slab(int s) const { return rows_ + plan_.column(s) * r_.points; }

  const ExactRequest<T>& r_;
  SlabPlan plan_;
  int64_t tiles_;
  T *columns_, *low_, *high_;  // [d, tiles * kTile], [tiles, d], [tiles, d]
  T* rows_;                    // slab after slab
  T* kernel_[kMaxThreads];     // [kGroup, kTile]
  T* sums_[kMaxThreads];       // [kGroup, stride]
  bool finite_[kMaxThreads];
};

}  // namespace

template <class T>
size_t exact_filter_workspace(const ExactRequest<T>& request) {
  Arena arena(nullptr);
  ExactFilter<T> layout(request, &arena);
  return arena.bytes();
}

template <class T>
Status exact_filter(const ExactRequest<T>& request, void* workspace) {
  Arena arena(workspace);
  return ExactFilter<T>(request, &arena).run() ? Status::kOk : Status::kNotFinite;
}

template size_t exact_filter_workspace(const ExactRequest<float>&);
template size_t exact_filter_workspace(const ExactRequest<double>&);
template Status exact_filter(const ExactRequest<float>&, void*);
template Status exact_filter(const ExactRequest<double>&, void*);

DENSECRF_END
