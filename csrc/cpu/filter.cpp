// The lattice filter as a public operation: splat, blur, slice, a few slabs of channels at a time so that
// memory does not grow with C.
#include "cpu/lattice_field.h"
#include "cpu/ops.h"
#include "cpu/points.h"

DENSECRF_BEGIN

namespace {

constexpr int kChannelsAtOnce = kSlab;

template <class T>
struct FilterSpace {
  LatticeField<T> field;
  T* rows[kMaxThreads];

  FilterSpace(const LatticeView<T>& lattice, int channels, int threads, Arena* arena) {
    SlabPlan plan(smaller(channels, kChannelsAtOnce));
    field.layout(lattice, plan, threads, arena);
    for (int t = 0; t < threads; ++t) rows[t] = arena->template take<T>(2 * kChunk * plan.stride());
  }
};

template <class T, class F>
inline void for_chunks(Range range, F&& f) {
  for (int64_t i = range.begin; i < range.end; i += kChunk)
    f(i, int(smaller<int64_t>(kChunk, range.end - i)));
}

template <class T>
bool filter_channels(const LatticeView<T>& lattice, int channels, const T* values, T* out, bool transpose,
                     int threads, void* workspace) {
  Arena arena(workspace);
  FilterSpace<T> space(lattice, channels, threads, &arena);
  const int stride = SlabPlan(channels).stride();
  bool finite[kMaxThreads];
  int size = 1;
  parallel(threads, [&](Team& team, int thread) {
    Range mine = band(lattice.points, team.size(), thread);
    T* rows = space.rows[thread];
    if (thread == 0) size = team.size();
    finite[thread] = true;
    space.field.start(thread, mine);
    space.field.clear(thread, 0);
    for_chunks<T>(mine, [&](int64_t first, int count) {
      if (!load_points(values, lattice.points, channels, first, count, stride, rows)) finite[thread] = false;
      space.field.splat(space.field.accumulator(thread, 0), first, count, rows,
                        static_cast<const T*>(nullptr));
    });
    team.barrier();
    space.field.blur(team, thread, 0, transpose);
    team.barrier();
    T* zeros = rows + kChunk * stride;
    for (int i = 0; i < kChunk * stride; ++i) zeros[i] = 0;
    for_chunks<T>(mine, [&](int64_t first, int count) {
      space.field.slice(space.field.blurred(0), first, count, zeros, lattice.alpha,
                        static_cast<const T*>(nullptr), rows);
      store_points(rows, stride, lattice.points, channels, first, count, out);
    });
  });
  for (int t = 0; t < size; ++t) {
    if (!finite[t]) return false;
  }
  return true;
}

}  // namespace

template <class T>
size_t filter_workspace(const LatticeView<T>& lattice, int channels, int threads) {
  Arena arena(nullptr);
  FilterSpace<T> space(lattice, channels, threads, &arena);
  return arena.bytes();
}

template <class T>
Status filter(const LatticeView<T>& lattice, int channels, const T* values, T* out, bool transpose,
              int threads, void* workspace) {
  for (int c = 0; c < channels; c += kChannelsAtOnce) {
    int count = smaller(kChannelsAtOnce, channels - c);
    int64_t at = c * lattice.points;
    if (!filter_channels(lattice, count, values + at, out + at, transpose, threads, workspace))
      return Status::kNotFinite;
  }
  return Status::kOk;
}

template size_t filter_workspace(const LatticeView<float>&, int, int);
template size_t filter_workspace(const LatticeView<double>&, int, int);
template Status filter(const LatticeView<float>&, int, const float*, float*, bool, int, void*);
template Status filter(const LatticeView<double>&, int, const double*, double*, bool, int, void*);

DENSECRF_END
