// The lattice filter as a public operation: splat, blur, slice, a few slabs of channels at a time so that
// memory does not grow with C.
#include <cmath>

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
    for (int t = 0; t < threads; ++t) rows[t] = arena->template take<T>(kChunk * plan.stride());
  }
};

// load(first, count, rows) brings values, or says that they are not finite; store(first, count, rows) takes
// what becomes of them.
template <class T, class Load, class Store>
bool filter_channels(const LatticeView<T>& lattice, int channels, bool transpose, int threads,
                     void* workspace, Load&& load, Store&& store) {
  Arena arena(workspace);
  FilterSpace<T> space(lattice, channels, threads, &arena);
  const int64_t points = lattice.points;
  bool finite[kMaxThreads];
  int size = 1;
  parallel(threads, [&](Team& team, int thread) {
    Range mine = band(lattice.points, team.size(), thread);
    T* rows = space.rows[thread];
    if (thread == 0) size = team.size();
    finite[thread] = true;
    space.field.start(thread, mine);
    space.field.clear(thread, 0);
    for_chunks(mine.begin, mine.end, points, [&](int64_t first, int count) {
      if (!load(first, count, rows)) finite[thread] = false;
      space.field.splat(space.field.accumulator(thread, 0), first, count, rows,
                        static_cast<const T*>(nullptr));
    });
    team.barrier();
    space.field.blur(team, thread, 0, transpose);
    team.barrier();
    for_chunks(mine.begin, mine.end, points, [&](int64_t first, int count) {
      space.field.slice(0, first, count, nullptr, lattice.alpha, nullptr, rows);
      store(first, count, rows);
    });
  });
  for (int t = 0; t < size; ++t) {
    if (!finite[t]) return false;
  }
  return true;
}

// Values of the filter and of its transpose at the same time.
template <class T>
struct FilterGradSpace {
  FilterSpace<T> forward, backward;

  FilterGradSpace(const LatticeView<T>& lattice, int channels, int threads, Arena* arena)
      : forward(lattice, channels, threads, arena), backward(lattice, channels, threads, arena) {}
};

// Adds to grad_weights what some of the channels contribute: with V the filtered values and U those of the
// transpose, point p and its corner k get alpha (grad_p . V_k + value_p . U_k).
template <class T>
bool weights_grad_channels(const LatticeView<T>& lattice, int channels, const T* values, const T* grad,
                           T* grad_weights, int threads, void* workspace) {
  Arena arena(workspace);
  FilterGradSpace<T> space(lattice, channels, threads, &arena);
  const int stride = SlabPlan(channels).stride();
  const int64_t points = lattice.points;
  bool finite[kMaxThreads];
  int size = 1;
  parallel(threads, [&](Team& team, int thread) {
    Range mine = band(lattice.points, team.size(), thread);
    LatticeField<T>&forward = space.forward.field, &backward = space.backward.field;
    T *value_rows = space.forward.rows[thread], *grad_rows = space.backward.rows[thread];
    if (thread == 0) size = team.size();
    finite[thread] = true;
    forward.start(thread, mine);
    forward.clear(thread, 0);
    backward.start(thread, mine);
    backward.clear(thread, 0);
    const auto load = [&](const T* planes, int64_t first, int count, T* rows) {
      return load_points(planes, points, channels, first, count, stride, rows);
    };
    for_chunks(mine.begin, mine.end, points, [&](int64_t first, int count) {
      if (!load(values, first, count, value_rows) || !load(grad, first, count, grad_rows))
        finite[thread] = false;
      forward.splat(forward.accumulator(thread, 0), first, count, value_rows, static_cast<const T*>(nullptr));
      backward.splat(backward.accumulator(thread, 0), first, count, grad_rows,
                     static_cast<const T*>(nullptr));
    });
    team.barrier();
    forward.blur(team, thread, 0, false);
    backward.blur(team, thread, 0, true);
    team.barrier();
    for_chunks(mine.begin, mine.end, points, [&](int64_t first, int count) {
      load(values, first, count, value_rows);
      load(grad, first, count, grad_rows);
      forward.corner_dots(forward.blurred(0), first, count, grad_rows, lattice.alpha, nullptr, grad_weights);
      backward.corner_dots(backward.blurred(0), first, count, value_rows, lattice.alpha, nullptr,
                           grad_weights);
    });
  });
  for (int t = 0; t < size; ++t) {
    if (!finite[t]) return false;
  }
  return true;
}

}  // namespace

template <class T>
size_t filter_weights_grad_workspace(const LatticeView<T>& lattice, int channels, int threads) {
  Arena arena(nullptr);
  FilterGradSpace<T> space(lattice, channels, threads, &arena);
  return arena.bytes();
}

template <class T>
Status filter_weights_grad(const LatticeView<T>& lattice, int channels, const T* values, const T* grad,
                           T* grad_weights, int threads, void* workspace) {
  std::memset(static_cast<void*>(grad_weights), 0,
              size_t(lattice.points) * size_t(lattice.dims + 1) * sizeof(T));
  for (int c = 0; c < channels; c += kChannelsAtOnce) {
    int count = smaller(kChannelsAtOnce, channels - c);
    int64_t at = c * lattice.points;
    if (!weights_grad_channels(lattice, count, values + at, grad + at, grad_weights, threads, workspace))
      return Status::kNotFinite;
  }
  return Status::kOk;
}

template size_t filter_weights_grad_workspace(const LatticeView<float>&, int, int);
template size_t filter_weights_grad_workspace(const LatticeView<double>&, int, int);
template Status filter_weights_grad(const LatticeView<float>&, int, const float*, const float*, float*, int,
                                    void*);
template Status filter_weights_grad(const LatticeView<double>&, int, const double*, const double*, double*,
                                    int, void*);

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
    const int some = smaller(kChannelsAtOnce, channels - c), stride = SlabPlan(some).stride();
    const int64_t points = lattice.points;
    const T* from = values + c * points;
    T* to = out + c * points;
    const auto load = [=](int64_t first, int count, T* rows) {
      return load_points(from, points, some, first, count, stride, rows);
    };
    const auto store = [=](int64_t first, int count, const T* rows) {
      store_points(rows, stride, points, some, first, count, to);
    };
    if (!filter_channels(lattice, some, transpose, threads, workspace, load, store))
      return Status::kNotFinite;
  }
  return Status::kOk;
}

template <class T>
Status lattice_norm(const LatticeView<T>& lattice, const T* mask, T power, T* out, int threads,
                    void* workspace) {
  constexpr T kUnreached = T(1e-10);  // as in densecrf/terms.py
  const auto load = [=](int64_t first, int count, T* ones) {
    if (mask) return load_points(mask, lattice.points, 1, first, count, 1, ones);
    for (int p = 0; p < count; ++p) ones[p] = 1;
    return true;
  };
  const auto store = [=](int64_t first, int count, const T* sums) {
    T* to = out + first;
    for (int p = 0; p < count; ++p) {
      const T sum = larger(sums[p], kUnreached), root = power == T(-0.5) ? std::sqrt(sum) : sum;
      to[p] = power == T(1) ? sums[p] : sums[p] > kUnreached ? T(1) / root : T(0);
    }
  };
  const bool finite = filter_channels(lattice, 1, false, threads, workspace, load, store);
  return finite ? Status::kOk : Status::kNotFinite;
}

template size_t filter_workspace(const LatticeView<float>&, int, int);
template size_t filter_workspace(const LatticeView<double>&, int, int);
template Status filter(const LatticeView<float>&, int, const float*, float*, bool, int, void*);
template Status filter(const LatticeView<double>&, int, const double*, double*, bool, int, void*);
template Status lattice_norm(const LatticeView<float>&, const float*, float, float*, int, void*);
template Status lattice_norm(const LatticeView<double>&, const double*, double, double*, int, void*);

DENSECRF_END
