// Values on the vertices of one lattice while a team of threads splats, blurs and slices them.
//
// Every thread splats into a copy of its own, which costs a reduction but beats gathering by vertex 1.8x
// while vertices are fewer than points (see docs/performance.md).  A thread clears and adds only the range of
// vertices that its points touch.
//
// Where the caller allows it and the values outgrow the second-level cache, they are blurred and sliced in
// half precision: the blur is bound by memory there.  Sums before the blur stay float.
#pragma once
#include <cmath>

#include "cpu/parallel.h"
#include "cpu/rounds.h"
#include "cpu/splat_slice.h"

DENSECRF_BEGIN

// One blur step along one axis, in place: x += blur * (both neighbours), chain after chain in one loop, since
// a branch at each chain's end would be mispredicted: there the neighbour counts 0 times (values are finite).
// Each row is read and written once, and vertices without neighbours along the axis (a tenth to a quarter of
// them on photographs) are not touched at all.
template <class T, int W, class S>
[[gnu::noinline]] void blur_chains(const int32_t* chains, Range range, T blur, S* values) {
  constexpr int kAhead = 24;
  const auto row_of = [=](int32_t id) { return values + int64_t(id ^ (id >> 31)) * W; };  // ~id at the end
  if (range.begin >= range.end) return;
  S* at = row_of(chains[range.begin]);
  auto here = load_row<T, W>(at);
  auto before = Row<T, W>::zero();
  const T reach[2] = {blur, 0};  // to the next vertex, and at the end of a chain
  T below = 0;
  const auto step = [&](int64_t i, int64_t following) {
    S* next_at = row_of(chains[following]);
    const auto next = load_row<T, W>(next_at);
    const T above = reach[uint32_t(chains[i]) >> 31];
    auto sum = here;
    sum.add_scaled(below, before);
    sum.add_scaled(above, next);
    store_row(sum, at);
    before = here;
    here = next;
    below = above;
    at = next_at;
  };
  int64_t i = range.begin;
  for (; i < range.end - kAhead; ++i) {
    prefetch_row<W, true>(row_of(chains[i + kAhead]));
    step(i, i + 1);
  }
  for (; i < range.end; ++i) step(i, smaller(i + 1, range.end - 1));
}

template <class T>
class LatticeField {
 public:
  LatticeField() : plan_(0) {}

  // Two rounds of values alternate, since a pass slices the last blur while it splats for the next; or all
  // rounds' are kept where the caller says.  most: what a vertex receives at most, if values may be stored in
  // half precision.
  void layout(const LatticeView<T>& lattice, const SlabPlan& plan, int threads, Arena* arena,
              Rounds<T> kept = {}, double most = INFINITY) {
    layout_to_read(lattice, plan, kept);
    const int64_t values = lattice_.vertices * plan_.stride(), step = (values + 15) & ~int64_t(15);
    float16_scale_ = float16_scale(most);
    in_float16_ = float16_scale_ > 0 && better_in_float16<T>(values, plan_.stride());
    if (in_float16_)
      halves_ = arena->template take<Float16>(values);
    else if (kept.rounds == 0)
      rounds_ = {arena->template take<T>(2 * step), step, 2};
    for (int t = in_float16_ ? 0 : 1; t < threads; ++t) part_[t] = arena->template take<T>(values);
  }
  // For slices only, of values that are there.
  void layout_to_read(const LatticeView<T>& lattice, const SlabPlan& plan, Rounds<T> kept) {
    lattice_ = lattice;
    plan_ = plan;
    rounds_ = kept;
  }

  // Called once by every thread before the first splat, with the points that it will splat.
  void start(int thread, Range points) {
    touched_[thread] = thread == 0 && !in_float16_ ? Range{0, lattice_.vertices} : vertices_of(points);
  }

  // `round` counts blurs: splats, the blur and the slices that belong together name the same one.
  T* blurred(int round) const { return rounds_.at(round); }
  T* accumulator(int thread, int round) const {
    return thread == 0 && !in_float16_ ? blurred(round) : part_[thread];
  }

  // Zeroes what this thread will splat into.
  void clear(int thread, int round) {
    Range range = touched_[thread];
    for (int s = 0; s < plan_.slabs(); ++s) {
      T* slab = slab_of(accumulator(thread, round), s);
      std::memset(static_cast<void*>(slab + range.begin * plan_.width(s)), 0,
                  size_t(range.end - range.begin) * plan_.width(s) * sizeof(T));
    }
  }

  // Adds the threads' copies and blurs along all axes (in reverse order for the transpose).  Between barriers
  // on either side.
  void blur(Team& team, int thread, int round, bool transpose) {
    const bool shared = worth_sharing(team);
    int parts = shared ? team.size() : 1, part = shared ? thread : 0;
    int first = shared ? 0 : thread, step = shared ? 1 : team.size();
    for (int s = first; s < plan_.slabs(); s += step) reduce_share(team.size(), s, parts, part, round);
    for (int i = 0; i <= lattice_.dims && shared; ++i) {
      team.barrier();
      for (int s = 0; s < plan_.slabs(); ++s) blur_axis(s, i, parts, part, round, transpose);
    }
    for (int s = first; s < plan_.slabs() && !shared; s += step) {
      for (int i = 0; i <= lattice_.dims; ++i) blur_axis(s, i, parts, part, round, transpose);
    }
  }

  // out = in + gain * out_scale * slice, in: null for zeros; splat of rows: see splat_slice.h.
  void slice(int round, int64_t first, int count, const T* in, T gain, const T* out_scale, T* out) const {
    if constexpr (kHalves<T>) {
      if (in_float16_) return slice_from(halves_, first, count, in, gain / float16_scale_, out_scale, out);
    }
    slice_from(blurred(round), first, count, in, gain, out_scale, out);
  }
  void splat(T* values, int64_t first, int count, const T* in, const T* in_scale) const {
    for (int s = 0; s < plan_.slabs(); ++s) {
      for_width(plan_.width(s), [&](auto w) {
        splat_function<T, decltype(w)::value>(lattice_.dims)(lattice_, slab_of(values, s), first, count,
                                                             in + plan_.column(s), in_scale, plan_.stride());
      });
    }
  }
  // dots: [N, d+1], of which those of the points from `first` on are added to.
  void corner_dots(const T* values, int64_t first, int count, const T* rows, T gain, const T* scale,
                   T* dots) const {
    dots += first * (lattice_.dims + 1);
    for (int s = 0; s < plan_.slabs(); ++s) {
      for_width(plan_.width(s), [&](auto w) {
        dots_function<T, decltype(w)::value>(lattice_.dims)(lattice_, slab_of(values, s), first, count,
                                                            rows + plan_.column(s), gain, scale, dots,
                                                            plan_.stride());
      });
    }
  }

 private:
  // Few values are blurred along all axes by one thread, without barriers; 10^6 of them take 0.8 ms, and to
  // find a row takes as long as to blur 8.  At every axis threads also fetch what another one has changed,
  // which takes the longer the longer a barrier does: 70 ns or 240, as the two cores of one virtual machine
  // come to lie.  320 x 240 points, two labels, 120,000 values: mean field 9 % shorter with 70, 5 to 10 %
  // longer with 240.
  bool worth_sharing(Team& team) const {
    constexpr int64_t kRowCost = 8, kForANanosecond = 1000;
    const int64_t values = lattice_.vertices * (plan_.stride() + kRowCost);
    return team.size() > 1 && values >= kForANanosecond * team.barrier_time();
  }

  template <class S>
  S* slab_of(S* values, int s) const {
    return values + plan_.column(s) * lattice_.vertices;
  }
  template <class S>
  void slice_from(const S* values, int64_t first, int count, const T* in, T gain, const T* out_scale,
                  T* out) const {
    for (int s = 0; s < plan_.slabs(); ++s) {
      const int column = plan_.column(s);
      for_width(plan_.width(s), [&](auto w) {
        slice_function<T, S, decltype(w)::value>(lattice_.dims)(
            lattice_, slab_of(values, s), column, first, count, in, gain, out_scale, out, plan_.stride());
      });
    }
  }

  void blur_axis(int s, int i, int parts, int part, int round, bool transpose) {
    const int axis = transpose ? lattice_.dims - i : i;
    const int64_t first = lattice_.chain_starts[axis];
    const int32_t* chains = lattice_.chains + first;
    Range range = band(lattice_.chain_starts[axis + 1] - first, parts, part);
    range = {chain_border(chains, range.begin), chain_border(chains, range.end)};
    for_width(plan_.width(s), [&](auto w) {
      constexpr int W = decltype(w)::value;
      if constexpr (kHalves<T>) {
        if (in_float16_) return blur_chains<T, W>(chains, range, lattice_.blur, slab_of(halves_, s));
      }
      blur_chains<T, W>(chains, range, lattice_.blur, slab_of(blurred(round), s));
    });
  }
  // The first chain that begins at i or later.
  static int64_t chain_border(const int32_t* chains, int64_t i) {
    while (i > 0 && chains[i - 1] >= 0) ++i;
    return i;
  }

  // Half precision ends at 65504, and d + 1 blur steps multiply the largest value by no more than (1 + 2
  // blur)^(d + 1).  A power of two, so that scaling rounds nothing; 0 where a point's weight alone, 1 / (d +
  // 1) and less, would lose digits.
  T float16_scale(double most) const {
    for (int i = 0; i <= lattice_.dims; ++i) most *= 1 + 2 * double(lattice_.blur);
    T scale = 1;
    for (; most > 32768; most /= 2) {
      scale /= 2;
      if (scale < T(1) / 4096) return 0;
    }
    return scale;
  }

  // The sum of the threads' copies in half precision.
  void reduce_to_float16(int team_size, int s, Range range) {
    if constexpr (kHalves<T>) {
      const T scale = float16_scale_;
      for_width(plan_.width(s), [&](auto w) {
        constexpr int W = decltype(w)::value;
        for (int64_t v = range.begin; v < range.end; ++v) {
          auto sum = Row<T, W>::zero();
          for (int t = 0; t < team_size; ++t) {
            if (touched_[t].begin <= v && v < touched_[t].end)
              sum.add_scaled(scale, slab_of(accumulator(t, 0), s) + v * W);
          }
          store_row(sum, slab_of(halves_, s) + v * W);
        }
      });
    }
  }

  void reduce(int team_size, int s, Range range, int round) {
    if (in_float16_) return reduce_to_float16(team_size, s, range);
    T* sum = slab_of(accumulator(0, round), s);
    const int width = plan_.width(s);
    for (int t = 1; t < team_size; ++t) {
      const T* part = slab_of(accumulator(t, round), s);
      int64_t begin = larger(range.begin, touched_[t].begin) * width,
              end = smaller(range.end, touched_[t].end) * width;
      for (int64_t i = begin; i < end; ++i) sum[i] += part[i];
    }
  }

  // Equal shares of the vertices that are splatted into and of the bridges after them, which cost less.
  void reduce_share(int team_size, int s, int parts, int part, int round) {
    int64_t splatted = 0;
    for (int t = 0; t < team_size; ++t) splatted = larger(splatted, touched_[t].end);
    const Range bridges = band(lattice_.vertices - splatted, parts, part);
    reduce(team_size, s, band(splatted, parts, part), round);
    reduce(team_size, s, {splatted + bridges.begin, splatted + bridges.end}, round);
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
  Rounds<T> rounds_;
  T* part_[kMaxThreads] = {};
  Range touched_[kMaxThreads] = {};
  bool in_float16_ = false;
  Float16* halves_ = nullptr;  // the blurred values, of one round at a time
  T float16_scale_ = 1;        // what 1 is stored as
};

DENSECRF_END
