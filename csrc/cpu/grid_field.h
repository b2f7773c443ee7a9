// Values of a spatial Gaussian on its node grid while a team of threads splats, filters and slices them.
//
// Along x and y every point is splatted onto the nodes as it is computed, each thread into node rows of its
// own, which overlap the next thread's by two; the filter along y adds them up.  Along z the tent splat and
// the taps are one banded sum from planes to node planes.  Interpolation back to pixels is the mirror image.
//
// Of an image, node rows are filtered when the slice comes to them, and forgotten: filtered values of all
// nodes would be written and read once an iteration, which costs more than the filter.  Where pixels are
// the nodes, what is splatted may be stored in half precision.
#pragma once
#include "core/grid_node.h"
#include "cpu/float16.h"
#include "cpu/parallel.h"
#include "cpu/rounds.h"
#include "cpu/rows.h"

DENSECRF_BEGIN

// dst[r] = sum_n weights[n - r] * rows[n], n < count, rows `step` and results `dst_step` apart; or added to
// dst[r], r < R.  The last R rows are those that the call before has not read: they are asked for ahead.
template <int R, class T, class S>
[[gnu::noinline]] inline void weighted_sums(int64_t length, int64_t count, const T* weights, const S* rows,
                                            int64_t step, T* dst, int64_t dst_step, bool add = false) {
  constexpr int kAhead = 8;
  int64_t i = 0;
  const auto in_blocks = [&](auto w) {
    constexpr int W = decltype(w)::value;
    for (; i + W <= length; i += W) {
      Row<T, W> sum[R];
      for (int r = 0; r < R; ++r) sum[r] = add ? Row<T, W>::load(dst + r * dst_step + i) : Row<T, W>::zero();
      for (int64_t n = 0; n < count; ++n) {
        const auto row = load_row<T, W>(rows + n * step + i);
        for (int r = 0; r < R; ++r) sum[r].add_scaled(weights[n - r], row);
      }
      for (int64_t n = larger<int64_t>(0, count - R); n < count; ++n)
        prefetch_row<W>(rows + n * step + i + kAhead * W);
      for (int r = 0; r < R; ++r) sum[r].store(dst + r * dst_step + i);
    }
  };
  constexpr int kSums = kVectorBytes == 64 ? 16 : 8;  // of the registers, half
  in_blocks(Int<smaller(4, kSums / R) * kNative<T>>());
  in_blocks(Int<kNative<T>>());
  in_blocks(Int<1>());
}

// dst[i] = sum_k taps[|k|] * src[i + k * step], k = -radius ... radius.  src is readable radius * step beyond
// both ends.
template <class T>
[[gnu::noinline]] inline void symmetric_filter(int64_t length, int radius, const T* taps, const T* src,
                                               int64_t step, T* dst) {
  constexpr int kBlock = 4 * kNative<T>;
  int64_t i = 0;
  for (; i + kBlock <= length; i += kBlock) {
    auto sum = Row<T, kBlock>::load(src + i);
    sum.scale(taps[0]);
    for (int k = 1; k <= radius; ++k) {
      auto pair = Row<T, kBlock>::load(src + i - k * step);
      pair.add_scaled(T(1), src + i + k * step);
      sum.add_scaled(taps[k], pair);
    }
    sum.store(dst + i);
  }
  for (; i < length; ++i) {
    T sum = taps[0] * src[i];
    for (int k = 1; k <= radius; ++k) sum += taps[k] * (src[i - k * step] + src[i + k * step]);
    dst[i] = sum;
  }
}

// The banded sum of one axis: node c gathers pixels first[c] ... first[c] + count[c] - 1.
template <class T>
struct Band1D {
  int64_t nodes, most;  // most: longest band
  int64_t* first;
  int64_t* count;
  T* weights;  // [nodes, most]

  void layout(Arena* arena, int64_t size, int spacing, int radius) {
    nodes = grid_nodes(size, spacing);
    most = smaller(size, int64_t(2 * radius + 2) * spacing);
    first = arena->template take<int64_t>(nodes);
    count = arena->template take<int64_t>(nodes);
    weights = arena->template take<T>(nodes * most);
  }
  void fill(int64_t size, int spacing, int radius, const T* taps) {
    int64_t tent = spacing == 1 ? 0 : 1;
    for (int64_t c = 0; c < nodes; ++c) {
      first[c] = larger<int64_t>(0, (c - radius - tent) * spacing);
      int64_t end = smaller(size, (c + radius + 1) * spacing);
      count[c] = larger<int64_t>(0, end - first[c]);
      for (int64_t i = 0; i < count[c]; ++i) {
        NodeAt<T> at(first[c] + i, spacing);
        T sum = 0;
        for (int side = 0; side <= tent; ++side) {
          int64_t offset = at.node + side - c;
          offset = offset < 0 ? -offset : offset;
          if (offset <= radius) sum += (side ? at.fraction : 1 - at.fraction) * taps[offset];
        }
        weights[c * most + i] = sum;
      }
    }
  }
};

template <class T>
class GridField {
 public:
  GridField() : plan_(0) {}

  // Filtered values are kept where the caller says, or are those of one round at a time.  `of`: a field of
  // the same grid, whose splats this one filters, too.
  void layout(const GridView<T>& grid, const SlabPlan& plan, int threads, Arena* arena, Rounds<T> kept = {},
              bool float16 = false, const GridField* of = nullptr) {
    layout_to_read(grid, plan, kept);
    parts_ = of ? of->parts_ : own_parts_;
    by_row_ = kept.rounds == 0 && !volume();
    if (kept.rounds == 0 && volume()) rounds_ = {arena->template take<T>(values(grid, plan)), 0, 1};
    z_.layout(arena, grid_.size[0], grid_.spacing[0], grid_.radius[0]);
    y_taps_ = arena->template take<T>(2 * (grid_.radius[1] + kTogether) - 1);
    const int64_t splatted = (planes() * rows_ + 2 * threads) * row_values_;
    const int turns = by_row_ ? 2 : 1;  // this round's are sliced while the next one's are splatted
    splats_ = !of;
    in_float16_ = float16 && by_row_ && direct() && better_in_float16<T>(splatted, plan.stride());
    if (in_float16_)
      halves_ = {arena->template take<Float16>(turns * splatted), splatted, turns};
    else
      splatted_ = of ? of->splatted_ : Rounds<T>{arena->template take<T>(turns * splatted), splatted, turns};
    filtered_ = volume() ? arena->template take<T>(planes() * rows_ * row_values_) : nullptr;
    for (int t = 0; t < threads; ++t) {
      padded_[t] = arena->template take<T>(kTogether * padded_row());
      ready_[t].rows = arena->template take<T>(by_row_ ? 2 * kTogether * row_values_ : 0);
    }
  }
  // For slices only, of values that are there.
  void layout_to_read(const GridView<T>& grid, const SlabPlan& plan, Rounds<T> kept) {
    grid_ = grid;
    plan_ = plan;
    rounds_ = kept;
    row_values_ = grid_nodes(grid.size[2], grid.spacing[2]) * plan.stride();
    rows_ = grid_nodes(grid.size[1], grid.spacing[1]);
  }
  // Values on the nodes.
  static int64_t values(const GridView<T>& grid, const SlabPlan& plan) {
    int64_t nodes = 1;
    for (int a = 0; a < kGridAxes; ++a) nodes *= grid_nodes(grid.size[a], grid.spacing[a]);
    return nodes * plan.stride();
  }

  // Called once by every thread before the first splat, with the pixel rows (z * H + y) that it will splat.
  void start(int thread, Range rows) {
    std::memset(static_cast<void*>(padded_[thread]), 0, size_t(kTogether * padded_row()) * sizeof(T));
    Part& part = own_parts_[thread];
    part = {rows.begin, 0, 0, 0, 2 * thread * row_values_};
    if (splats_ && rows.begin < rows.end) {
      part.begin = node_row(rows.begin);
      part.end = node_row(rows.end - 1) + (grid_.spacing[1] == 1 ? 1 : 2);
    }
    if (thread > 0) return;
    z_.fill(grid_.size[0], grid_.spacing[0], grid_.radius[0], grid_.taps[0]);
    const int reach = grid_.radius[1] + kTogether - 1;
    for (int k = -reach; k <= reach; ++k) {
      const int offset = k < 0 ? -k : k;
      y_taps_[reach + k] = offset <= grid_.radius[1] ? grid_.taps[1][offset] : T(0);
    }
  }

  // Filters what was splatted.  Between barriers on either side.
  void filter(Team& team, int thread, int round) {
    if (by_row_) {
      ready_[thread].group[0] = ready_[thread].group[1] = -1;
      ready_[thread].parts = team.size();
      return;
    }
    T* nodes = rounds_.at(round);
    T* filtered = volume() ? filtered_ : nodes;
    Range mine = band(planes() * rows_, team.size(), thread);
    for (int64_t row = mine.begin, end; row < mine.end; row = end) {
      end = smaller(row + kTogether, smaller(mine.end, (row / rows_ + 1) * rows_));  // of the same plane
      filter_rows(thread, team.size(), round, {row, end}, filtered + row * row_values_);
    }
    if (!volume()) return;
    team.barrier();
    filter_z(band(rows_, team.size(), thread), nodes);
  }

  // out = in + gain * out_scale * (values interpolated), for pixels x ... x + count - 1 of a row; in: null
  // for zeros. Rows that a thread takes in order are filtered once.
  template <class S>
  void slice(int thread, int64_t row, int64_t x, int count, int round, T gain, const S* in,
             const T* out_scale, T* out) {
    const NodeRows nodes = node_rows(thread, row, round);
    const T* scales = scales_of(out_scale, row, x);
    for (int s = 0; s < plan_.slabs(); ++s) {
      for_width(plan_.width(s), [&](auto w) {
        slice_pixels<decltype(w)::value>(plan_.column(s), nodes, x, count, gain, in, scales, out);
      });
    }
  }
  // Chunks of a row come in order, and rows do.
  void splat(int thread, int64_t row, int64_t x, int count, int round, const T* in, const T* in_scale) {
    const T* scales = scales_of(in_scale, row, x);
    if (direct()) return copy(own_parts_[thread], row, x, count, round, in, scales);
    if (x == 0) clear_ahead(thread, row, round);
    T* nodes = values_of(splatted_, own_parts_[thread], node_row(row), round);
    const T up = NodeAt<T>(row % grid_.size[1], grid_.spacing[1]).fraction;
    for (int s = 0; s < plan_.slabs(); ++s) {
      for_width(plan_.width(s), [&](auto w) {
        splat_pixels<decltype(w)::value>(plan_.column(s), nodes, up, x, count, in, scales);
      });
    }
  }

  void leave_out(int thread, int64_t row, int round) {
    if (!direct()) return clear_ahead(thread, row, round);
    with_splatted([&](auto splatted) {
      auto* values = values_of(splatted, own_parts_[thread], node_row(row), round);
      std::memset(static_cast<void*>(values), 0, size_t(row_values_) * sizeof(*values));
    });
  }

 private:
  // Node rows begin ... end - 1, as splatted by one thread.
  struct Part {
    int64_t first;  // its first pixel row
    int64_t begin, end, cleared;
    int64_t skip;  // what its values lie beyond their place in the grid: parts overlap
  };

  static constexpr int kTogether = 4;  // rows filtered along y at a time: each is read a quarter as often

  // Those of the pixels from x on in a row; null for ones.
  const T* scales_of(const T* all, int64_t row, int64_t x) const {
    return all ? all + row * grid_.size[2] + x : nullptr;
  }

  // The node rows that a pixel row lies between, along y and z, with their shares of it.
  struct NodeRows {
    const T* row[4];
    T share[4];
    int count;
  };
  NodeRows node_rows(int thread, int64_t row, int round) {
    const NodeAt<T> y(row % grid_.size[1], grid_.spacing[1]), z(row / grid_.size[1], grid_.spacing[0]);
    NodeRows out{};
    for (int64_t up_z = 0; up_z <= (z.fraction > 0); ++up_z) {
      for (int64_t up_y = 0; up_y <= (y.fraction > 0); ++up_y) {
        out.row[out.count] = filtered_row(thread, (z.node + up_z) * rows_ + y.node + up_y, round);
        out.share[out.count++] = (up_z ? z.fraction : 1 - z.fraction) * (up_y ? y.fraction : 1 - y.fraction);
      }
    }
    return out;
  }
  // By row, a group is filtered at a time and two groups are there: a pixel row may lie between them.
  const T* filtered_row(int thread, int64_t row, int round) {
    if (!by_row_) return rounds_.at(round) + row * row_values_;
    Ready& ready = ready_[thread];
    const int64_t group = row / kTogether, side = group % 2;
    if (ready.group[side] != group) {
      const int64_t first = group * kTogether;
      filter_rows(thread, ready.parts, round, {first, smaller(first + kTogether, rows_)},
                  ready.rows + side * kTogether * row_values_);
      ready.group[side] = group;
    }
    return ready.rows + row % (2 * kTogether) * row_values_;
  }
  template <int W>
  static Row<T, W> value_at(const NodeRows& nodes, int64_t at) {
    auto sum = Row<T, W>::load(nodes.row[0] + at);
    if (nodes.count == 1) return sum;
    sum.scale(nodes.share[0]);
    for (int r = 1; r < nodes.count; ++r) sum.add_scaled(nodes.share[r], nodes.row[r] + at);
    return sum;
  }

  template <int W, class S>
  void slice_pixels(int column, const NodeRows& nodes, int64_t x, int count, T gain, const S* in,
                    const T* scales, T* out) const {
    const int stride = plan_.stride(), spacing = grid_.spacing[2];
    const T unit = T(1) / T(spacing);
    int64_t node = x / spacing * stride + column;
    const SliceOnto<T, W, S> onto(in, column, stride, out);
    out += column;
    if (spacing == 1) {
      for (int p = 0; p < count; ++p, node += stride, out += stride) {
        auto sum = onto.row(p);
        sum.add_scaled(scales ? gain * scales[p] : gain, value_at<W>(nodes, node));
        sum.store(out);
      }
      return;
    }
    auto below = value_at<W>(nodes, node), above = value_at<W>(nodes, node + stride);
    int phase = int(x % spacing);
    for (int p = 0; p < count; ++p, out += stride) {
      const T scale = scales ? gain * scales[p] : gain, f = (T(phase) + T(0.5)) * unit;
      auto sum = onto.row(p);
      sum.add_scaled(scale - scale * f, below);
      sum.add_scaled(scale * f, above);
      sum.store(out);
      if (++phase == spacing && p + 1 < count) {
        phase = 0;
        node += stride;
        below = above;
        above = value_at<W>(nodes, node + stride);
      }
    }
  }

  // Calls f with what holds the splatted values.
  template <class F>
  void with_splatted(F&& f) const {
    if constexpr (kHalves<T>) {
      if (in_float16_) return f(halves_);
    }
    f(splatted_);
  }

  // Where pixels are the nodes.
  void copy(const Part& part, int64_t row, int64_t x, int count, int round, const T* in,
            const T* scales) const {
    with_splatted([&](auto splatted) {
      auto* nodes = values_of(splatted, part, node_row(row), round);
      for (int s = 0; s < plan_.slabs(); ++s) {
        for_width(plan_.width(s), [&](auto w) {
          copy_pixels<decltype(w)::value>(plan_.column(s), nodes, x, count, in, scales);
        });
      }
    });
  }
  template <int W, class S>
  void copy_pixels(int column, S* nodes, int64_t x, int count, const T* in, const T* scales) const {
    const int stride = plan_.stride();
    S* node = nodes + x * stride + column;
    in += column;
    for (int p = 0; p < count; ++p, node += stride, in += stride) {
      auto value = Row<T, W>::load(in);
      if (scales) value.scale(scales[p]);
      store_row(value, node);
    }
  }

  // The two nodes around a pixel along x are summed in registers until the last pixel that reaches them.
  // `up`: share of the node row above.
  template <int W>
  void splat_pixels(int column, T* nodes, T up, int64_t x, int count, const T* in, const T* scales) const {
    const int stride = plan_.stride(), spacing = grid_.spacing[2];
    const T unit = T(1) / T(spacing);
    T* node = nodes + x / spacing * stride + column;
    in += column;
    auto below = Row<T, W>::zero(), above = Row<T, W>::zero();
    int phase = int(x % spacing);
    for (int p = 0; p < count; ++p, in += stride) {
      const T scale = scales ? scales[p] : T(1), f = spacing == 1 ? T(0) : (T(phase) + T(0.5)) * unit;
      const auto value = Row<T, W>::load(in);
      below.add_scaled(scale - scale * f, value);
      above.add_scaled(scale * f, value);
      if (++phase == spacing) {
        phase = 0;
        add_to_node(below, up, node);
        node += stride;
        below = above;
        above = Row<T, W>::zero();
      }
    }
    if (phase == 0 && spacing == 1) return;
    add_to_node(below, up, node);
    if (phase > 0) add_to_node(above, up, node + stride);
  }
  template <int W>
  void add_to_node(const Row<T, W>& value, T up, T* node) const {
    auto sum = Row<T, W>::load(node);
    sum.add_scaled(1 - up, value);
    sum.store(node);
    if (up == 0) return;
    sum = Row<T, W>::load(node + row_values_);
    sum.add_scaled(up, value);
    sum.store(node + row_values_);
  }

  // Zeroes the node rows that this pixel row is the first of the thread's to reach.
  void clear_ahead(int thread, int64_t row, int round) {
    Part& part = own_parts_[thread];
    if (row == part.first) part.cleared = part.begin;
    const int64_t end = smaller(node_row(row) + 2, part.end);
    if (end <= part.cleared) return;
    std::memset(static_cast<void*>(values_of(splatted_, part, part.cleared, round)), 0,
                size_t(end - part.cleared) * row_values_ * sizeof(T));
    part.cleared = end;
  }

  // Node rows, kTogether at most, of what `parts` threads have splatted, filtered along y and x.
  void filter_rows(int thread, int parts, int round, Range rows, T* out) const {
    T* padded = padded_[thread] + margin();
    filter_y(rows, parts, round, padded);
    for (int64_t i = 0; i < rows.end - rows.begin; ++i) {
      symmetric_filter(row_values_, grid_.radius[2], grid_.taps[2], padded + i * padded_row(),
                       int64_t(plan_.stride()), out + i * row_values_);
    }
  }
  // out: kTogether rows, `padded_row()` apart, filtered along y, over all threads' parts; what is beyond
  // `rows` is not used.
  void filter_y(Range rows, int parts, int round, T* out) const {
    const int64_t radius = grid_.radius[1], plane = rows.begin / rows_ * rows_;
    const int64_t first = larger(plane, rows.begin - radius), end = smaller(plane + rows_, rows.end + radius);
    bool add = false;
    for (int t = 0; t < parts; ++t) {
      const int64_t from = larger(first, parts_[t].begin), to = smaller(end, parts_[t].end);
      if (from >= to) continue;
      const T* taps = y_taps_ + kTogether - 1 + (from - rows.begin + radius);
      with_splatted([&](auto splatted) {
        const auto* values = values_of(splatted, parts_[t], from, round);
        weighted_sums<kTogether>(row_values_, to - from, taps, values, row_values_, out, padded_row(), add);
      });
      add = true;
    }
  }

  void filter_z(Range rows, T* nodes) const {
    const int64_t plane = rows_ * row_values_, skip = rows.begin * row_values_;
    for (int64_t c = 0; c < z_.nodes; ++c) {
      weighted_sums<1>((rows.end - rows.begin) * row_values_, z_.count[c], z_.weights + c * z_.most,
                       filtered_ + z_.first[c] * plane + skip, plane, nodes + c * plane + skip, 0);
    }
  }

  // Node row below a pixel row, over all planes.
  int64_t node_row(int64_t row) const {
    return row / grid_.size[1] * rows_ + row % grid_.size[1] / grid_.spacing[1];
  }
  bool direct() const { return grid_.spacing[1] == 1 && grid_.spacing[2] == 1; }
  bool volume() const { return grid_.size[0] > 1; }
  int64_t planes() const { return grid_.size[0]; }
  int64_t margin() const { return int64_t(grid_.radius[2]) * plan_.stride(); }
  int64_t padded_row() const { return row_values_ + 2 * margin(); }

  template <class S>
  S* values_of(const Rounds<S>& splatted, const Part& part, int64_t row, int round) const {
    return splatted.at(round) + part.skip + row * row_values_;
  }
  // Groups of filtered node rows that a thread has at hand.
  struct Ready {
    T* rows;  // [2 groups]
    int64_t group[2];
    int parts;
  };

  GridView<T> grid_ = {};
  SlabPlan plan_;
  int64_t row_values_ = 0;  // values on the nodes of one row
  int64_t rows_ = 0;        // node rows of a plane
  Band1D<T> z_;
  T* y_taps_ = nullptr;  // [2 (radius + kTogether) - 1], zeros on either side
  bool by_row_ = false;  // filtered rows are not kept
  bool splats_ = false;  // into parts of its own
  bool in_float16_ = false;
  Rounds<T> splatted_;      // the parts, [D * node rows + 2 threads, nodes x]
  Rounds<Float16> halves_;  // or these
  T* filtered_ = nullptr;   // [D, node rows, nodes x] filtered along y and x (volumes)
  Rounds<T> rounds_;        // [nodes z, node rows, nodes x] filtered (volumes, or kept)
  Part own_parts_[kMaxThreads] = {};
  const Part* parts_ = nullptr;  // of the field whose splats are filtered
  T* padded_[kMaxThreads] = {};  // [kTogether] rows with zeros around them
  Ready ready_[kMaxThreads] = {};
};

DENSECRF_END
