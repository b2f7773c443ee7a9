// The spatial Gaussian on a regular grid as an operation of its own.
#include "cpu/grid_field.h"
#include "cpu/ops.h"
#include "cpu/points.h"

DENSECRF_BEGIN

namespace {

constexpr int kChannelsAtOnce = kSlab;

template <class T>
struct GridSpace {
  GridField<T> field;
  T* rows[kMaxThreads];

  GridSpace(const GridView<T>& grid, int channels, int threads, Arena* arena) {
    SlabPlan plan(smaller(channels, kChannelsAtOnce));
    field.layout(grid, plan, threads, arena);
    for (int t = 0; t < threads; ++t) rows[t] = arena->template take<T>(kChunk * plan.stride());
  }
};

template <class T>
bool filter_channels(const GridView<T>& grid, int channels, const T* values, T* out, int threads,
                     void* workspace) {
  Arena arena(workspace);
  GridSpace<T> space(grid, channels, threads, &arena);
  const int stride = SlabPlan(channels).stride();
  const int64_t width = grid.size[2], rows_each = grid.size[0] * grid.size[1], points = rows_each * width;
  bool finite[kMaxThreads];
  int size = 1;
  parallel(threads, [&](Team& team, int thread) {
    Range mine = band(rows_each, team.size(), thread);
    T* rows = space.rows[thread];
    if (thread == 0) size = team.size();
    finite[thread] = true;
    space.field.start(thread, mine);
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      for (int64_t x = 0; x < width; x += kChunk) {
        int count = int(smaller<int64_t>(kChunk, width - x));
        if (!load_points(values, points, channels, row * width + x, count, stride, rows))
          finite[thread] = false;
        space.field.splat(thread, row, x, count, 0, rows, static_cast<const T*>(nullptr));
      }
    }
    team.barrier();
    space.field.filter(team, thread, 0);
    team.barrier();
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      for (int64_t x = 0; x < width; x += kChunk) {
        int count = int(smaller<int64_t>(kChunk, width - x));
        space.field.slice(thread, row, x, count, 0, T(1), static_cast<const T*>(nullptr), nullptr, rows);
        store_points(rows, stride, points, channels, row * width + x, count, out);
      }
    }
  });
  for (int t = 0; t < size; ++t) {
    if (!finite[t]) return false;
  }
  return true;
}

}  // namespace

template <class T>
size_t grid_filter_workspace(const GridView<T>& grid, int channels, int threads) {
  Arena arena(nullptr);
  GridSpace<T> space(grid, channels, threads, &arena);
  return arena.bytes();
}

template <class T>
Status grid_filter(const GridView<T>& grid, int channels, const T* values, T* out, int threads,
                   void* workspace) {
  const int64_t points = grid.size[0] * grid.size[1] * grid.size[2];
  for (int c = 0; c < channels; c += kChannelsAtOnce) {
    int count = smaller(kChannelsAtOnce, channels - c);
    if (!filter_channels(grid, count, values + c * points, out + c * points, threads, workspace))
      return Status::kNotFinite;
  }
  return Status::kOk;
}

template size_t grid_filter_workspace(const GridView<float>&, int, int);
template size_t grid_filter_workspace(const GridView<double>&, int, int);
template Status grid_filter(const GridView<float>&, int, const float*, float*, int, void*);
template Status grid_filter(const GridView<double>&, int, const double*, double*, int, void*);

DENSECRF_END
