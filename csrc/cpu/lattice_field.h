// Values on the vertices of one lattice while a team of threads splats, blurs and slices them.
//
// Every thread splats into a copy of its own, which costs a reduction but beats gathering by vertex 1.8x while vertices are fewer than
// points (see docs/performance.md).  A thread clears and adds only the range of vertices that its points touch.
#pragma once
#include "cpu/parallel.h"
#include "cpu/splat_slice.h"

DENSECRF_BEGIN

// One blur step along one axis: dst = scale * (src + blur * (both neighbours)).
template <class T, int W>
void blur_rows(const int32_t* neighbours, Range range, T blur, T scale, const T* src, T* dst) {
  for (int64_t v = range.begin; v < range.end; ++v) {
    auto x = Row<T, W>::load(src + v * W);
    auto n = Row<T, W>::load(src + int64_t(neighbours[2 * v]) * W);
    n.add_scaled(T(1), src + int64_t(neighbours[2 * v + 1]) * W);
    x.add_scaled(blur, n);
    x.scale(scale);
    x.store(dst + v * W);
  }
}

template <class T>
inline void blur_slab(int width, const int32_t* neighbours, Range range, T blur, T scale, const T* src, T* dst) {
  switch (width) {
    case 16: return blur_rows<T, 16>(neighbours, range, blur, scale, src, dst);
    case 8: return blur_rows<T, 8>(neighbours, range, blur, scale, src, dst);
    case 4: return blur_rows<T, 4>(neighbours, range, blur, scale, src, dst);
    case 2: return blur_rows<T, 2>(neighbours, range, blur, scale, src, dst);
    default: return blur_rows<T, 1>(neighbours, range, blur, scale, src, dst);
  }
}

template <class T>
class LatticeField {
 public:
  // Below this many values the axes of a slab follow one another on one thread without a barrier: on a busy machine a barrier can cost a
  // time slice of 8 ms, a blur of this size takes under 1 ms.
  static constexpr int64_t kManyValues = int64_t(1) << 20;

  LatticeField() : plan_(0) {}

  void layout(const LatticeView<T>& lattice, const SlabPlan& plan, int threads, Arena* arena) {
    lattice_ = lattice;
    plan_ = plan;
    threads_ = threads;
    int64_t values = (lattice_.vertices + 1) * plan_.stride();
    front_ = arena->template take<T>(values);
    for (int t = 0; t < threads_; ++t) back_[t] = arena->template take<T>(values);
  }

  // Called once by every thread before the first splat, with the points that it will splat.
  void start(int thread, Range points) {
    touched_[thread] = thread == 0 ? Range{0, lattice_.vertices} : vertices_of(points);
    if (thread > 0) return;
    for (int s = 0; s < plan_.slabs(); ++s) {  // the rows that stand for missing neighbours
      int width = plan_.width(s);
      for (int i = 0; i < 2; ++i) {
        T* row = (i ? front_ : back_[0]) + (int64_t(s) * kSlab * (lattice_.vertices + 1)) + lattice_.vertices * width;
        for (int c = 0; c < width; ++c) row[c] = 0;
      }
    }
  }

  // Blurs alternate between two buffers.  `round` counts blurs: splats, the blur and the slices that belong together name the same one.
  // Zeroes what this thread will splat into.
  void clear(int thread, int round) {
    Range range = touched_[thread];
    for (int s = 0; s < plan_.slabs(); ++s) {
      T* slab = slab_of(accumulator(thread, round), s);
      std::memset(static_cast<void*>(slab + range.begin * plan_.width(s)), 0, size_t(range.end - range.begin) * plan_.width(s) * sizeof(T));
    }
  }
  VertexValues<T> accumulator(int thread, int round) const {
    return {thread == 0 && starts_in_front(round) ? front_ : back_[thread], lattice_.vertices};
  }
  VertexValues<T> blurred(int round) const {
    return {starts_in_front(round) == ends_where_it_starts() ? front_ : back_[0], lattice_.vertices};
  }

  // Adds the threads' copies and blurs along all axes (in reverse order for the transpose).  Between barriers on either side.
  void blur(Team& team, int thread, int round, T scale, bool transpose) {
    bool shared = lattice_.vertices * plan_.stride() >= kManyValues && team.size() > 1;
    Range range = shared ? band(lattice_.vertices, team.size(), thread) : Range{0, lattice_.vertices};
    int first = shared ? 0 : thread, step = shared ? 1 : team.size();
    for (int s = first; s < plan_.slabs(); s += step) reduce(team.size(), s, range, round);
    const int axes = lattice_.dims + 1;
    if (!shared) {
      for (int s = first; s < plan_.slabs(); s += step) {
        for (int i = 0; i < axes; ++i) blur_axis(s, i, range, round, scale, transpose);
      }
      return;
    }
    for (int i = 0; i < axes; ++i) {
      team.barrier();
      for (int s = 0; s < plan_.slabs(); ++s) blur_axis(s, i, range, round, scale, transpose);
    }
  }

  // rows <- in + out_scale * slice, splat of rows: see splat_slice.h.
  void slice(VertexValues<T> values, int64_t first, int count, const T* in, const T* out_scale, T* out) const {
    for (int i = 0; i < plan_.pairs(); ++i) {
      SlabPair pair = plan_.pair(i);
      slice_function<T>(lattice_.dims, pair)(lattice_, values, pair.column, first, count, in, out_scale, out, plan_.stride());
    }
  }
  void splat(VertexValues<T> values, int64_t first, int count, const T* in, const T* in_scale) const {
    for (int i = 0; i < plan_.pairs(); ++i) {
      SlabPair pair = plan_.pair(i);
      splat_function<T>(lattice_.dims, pair)(lattice_, values, pair.column, first, count, in, in_scale, plan_.stride());
    }
  }

 private:
  bool ends_where_it_starts() const { return (lattice_.dims + 1) % 2 == 0; }
  // With an even number of axes the result lies where the splat began, so the next splat takes the other buffer.
  bool starts_in_front(int round) const { return ends_where_it_starts() && round % 2 == 1; }
  T* slab_of(VertexValues<T> values, int s) const { return values.slab(s * kSlab); }

  void blur_axis(int s, int i, Range range, int round, T scale, bool transpose) {
    const int axes = lattice_.dims + 1;
    VertexValues<T> start = accumulator(0, round), other = {start.data == front_ ? back_[0] : front_, lattice_.vertices};
    const T* src = slab_of(i % 2 ? other : start, s);
    T* dst = slab_of(i % 2 ? start : other, s);
    int axis = transpose ? axes - 1 - i : i;
    blur_slab(plan_.width(s), lattice_.neighbours + 2 * lattice_.vertices * axis, range, lattice_.blur, i == axes - 1 ? scale : T(1), src, dst);
  }

  void reduce(int team_size, int s, Range range, int round) {
    T* sum = slab_of(accumulator(0, round), s);
    const int width = plan_.width(s);
    for (int t = 1; t < team_size; ++t) {
      const T* part = slab_of(accumulator(t, round), s);
      int64_t begin = larger(range.begin, touched_[t].begin) * width, end = smaller(range.end, touched_[t].end) * width;
      for (int64_t i = begin; i < end; ++i) sum[i] += part[i];
    }
  }

  Range vertices_of(Range points) const {
    if (points.begin >= points.end) return {0, 0};
    int32_t first = INT32_MAX, last = 0;
    for (int64_t i = points.begin; i < points.end; ++i) {
      first = smaller(first, lattice_.simplex[i]);
      last = larger(last, lattice_.simplex[i]);
    }
    const int64_t corners = lattice_.dims + 1;
    int32_t low = INT32_MAX, high = 0;
    for (int64_t i = first * corners; i < (last + 1) * corners; ++i) {
      low = smaller(low, lattice_.simplex_vertices[i]);
      high = larger(high, lattice_.simplex_vertices[i]);
    }
    return {low, int64_t(high) + 1};
  }

  LatticeView<T> lattice_ = {};
  SlabPlan plan_;
  int threads_ = 0;
  T* front_ = nullptr;
  T* back_[kMaxThreads] = {};
  Range touched_[kMaxThreads] = {};
};

DENSECRF_END
