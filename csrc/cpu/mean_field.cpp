// Mean field (Kraehenbuehl & Koltun 2011, algorithm 1), fused: one pass over the points slices the filtered
// values of every kernel, adds the unary, applies the compatibility, takes the softmax and splats the new Q,
// chunk by chunk in cache.  Q is kept between passes only when something needs the old one (damping,
// tolerance, free energy, removal of the self-message).
#include <cmath>
#include <new>

#include "cpu/grid_field.h"
#include "cpu/lattice_field.h"
#include "cpu/ops.h"
#include "cpu/points.h"
#include "cpu/softmax.h"

DENSECRF_BEGIN

namespace {

// Score of the padding channels: their probability is exactly zero.
constexpr double kNever = -1e30;

template <class T>
struct KernelState {
  KernelView<T> view;
  LatticeField<T> lattice;
  GridField<T> grid;
  T* weights = nullptr;            // padded vector, or transposed and padded matrix
  const T* expanded[kMaxThreads];  // grid: the row that each thread is at
};

// rows[p] += sign * in[p] * M^T, for M given transposed: [L, stride].
template <class T>
inline void add_matrix(int count, int labels, int stride, T sign, const T* transposed, const T* in, T* rows) {
  for (int p = 0; p < count; ++p) {
    for (int l = 0; l < labels; ++l) {
      const T f = sign * in[int64_t(p) * stride + l];
      const T* column = transposed + int64_t(l) * stride;
      T* row = rows + int64_t(p) * stride;
      for (int c = 0; c < stride; ++c) row[c] += f * column[c];
    }
  }
}

template <class T>
inline void add_vector(int count, int stride, T sign, const T* diagonal, const T* in, T* rows) {
  for (int p = 0; p < count; ++p) {
    for (int c = 0; c < stride; ++c)
      rows[int64_t(p) * stride + c] += sign * diagonal[c] * in[int64_t(p) * stride + c];
  }
}

// A vector padded with zeros, or a matrix transposed and padded.
template <class T>
inline void fill_weights(Weight kind, int labels, int stride, const T* from, T* to) {
  for (int l = 0; l < labels && kind == Weight::kMatrix; ++l) {
    for (int c = 0; c < stride; ++c)
      to[int64_t(l) * stride + c] = c < labels ? from[int64_t(c) * labels + l] : T(0);
  }
  for (int c = 0; c < stride && kind == Weight::kVector; ++c) to[c] = c < labels ? from[c] : T(0);
}
inline int64_t weights_size(Weight kind, int labels, int stride) {
  return kind == Weight::kScalar ? 0 : kind == Weight::kVector ? stride : int64_t(labels) * stride;
}

template <class T>
class MeanField {
 public:
  // Two labels under a Potts model need one channel: with q = Q_1 - Q_0, the difference of the scores is z +
  // c w K q, and q = tanh(z / 2).
  static bool needs_one_channel(const MeanFieldRequest<T>& r) {
    bool simple = r.labels == 2 && r.compat_kind == Weight::kScalar && !r.free_energy;
    for (int k = 0; k < r.num_kernels; ++k) simple = simple && r.kernels[k].weight_kind == Weight::kScalar;
    return simple;
  }

  MeanField(MeanFieldRequest<T>& request, KernelState<T>* kernels, Arena* arena)
      : r_(request),
        kernels_(kernels),
        one_channel_(needs_one_channel(request)),
        plan_(one_channel_ ? 1 : request.labels) {
    const int64_t n = r_.points;
    stride_ = plan_.stride();
    direct_ = r_.compat_kind == Weight::kScalar && !r_.free_energy;
    bool self = false;
    for (int k = 0; k < r_.num_kernels; ++k) {
      direct_ = direct_ && r_.kernels[k].weight_kind == Weight::kScalar && !r_.kernels[k].self;
      not_negative_ = not_negative_ && r_.kernels[k].weight * r_.compat >= 0;
      self = self || r_.kernels[k].self;
    }
    not_negative_ = not_negative_ && direct_ && r_.labels > 1;  // one label: exactly 1
    scores_ = arena->template take<T>(n * stride_);
    keep_q_ = self || r_.free_energy || r_.damping > 0 || r_.tolerance > 0;
    q_ = keep_q_ ? arena->template take<T>(n * stride_) : nullptr;
    compats_ = arena->template take<T>(weights_size(r_.compat_kind, r_.labels, stride_));
    for (int t = 0; t < r_.threads; ++t) scratch_[t] = arena->template take<T>(4 * kChunk * stride_);
    row_points_ = n;
    for (int k = 0; k < r_.num_kernels; ++k) {
      KernelState<T>& kernel = kernels_[k];
      kernel.view = r_.kernels[k];
      kernel.weights = arena->template take<T>(weights_size(kernel.view.weight_kind, r_.labels, stride_));
      if (kernel.view.lattice) {
        kernel.lattice.layout(*kernel.view.lattice, plan_, r_.threads, arena);
      } else {
        kernel.grid.layout(*kernel.view.grid, plan_, r_.threads, arena);
        row_points_ = kernel.view.grid->size[2];
        grid_ = true;
      }
    }
  }

  Status run() {
    fill_weights(r_.compat_kind, r_.labels, stride_, r_.compats, compats_);
    for (int k = 0; k < r_.num_kernels; ++k) {
      fill_weights(kernels_[k].view.weight_kind, r_.labels, stride_, kernels_[k].view.weights,
                   kernels_[k].weights);
    }
    r_.iterations_done = 0;
    last_round_ = rounds() - 1;
    parallel(r_.threads, [&](Team& team, int thread) { work(team, thread); });
    return status_;
  }

 private:
  enum class Stage { kFirst, kUpdate, kEnergy };

  void work(Team& team, int thread) {
    // Chunks do not cross pixel rows where a grid kernel wants rows; otherwise all points are one row.
    Range mine =
        grid_ ? band(r_.points / row_points_, team.size(), thread) : band(r_.points, team.size(), thread);
    if (grid_) mine = {mine.begin * row_points_, mine.end * row_points_};
    T* zeros = scratch(thread, 3);
    for (int i = 0; i < kChunk * stride_; ++i) zeros[i] = 0;
    for (int k = 0; k < r_.num_kernels; ++k) {
      if (kernels_[k].view.lattice)
        kernels_[k].lattice.start(thread, mine);
      else
        kernels_[k].grid.start(thread, {mine.begin / row_points_, mine.end / row_points_});
    }
    finite_[thread] = true;
    shift_[thread] = 0;
    pass(thread, mine, Stage::kFirst, 0);
    team.barrier();
    if (thread == 0) after_first(team.size());
    for (int round = 0; round < rounds(); ++round) {
      for (int k = 0; k < r_.num_kernels; ++k) filter(team, thread, k, round);
      team.barrier();
      if (stop_ || round > last_round_) break;
      const bool energy_only = r_.free_energy && round == last_round_;
      pass(thread, mine, energy_only ? Stage::kEnergy : Stage::kUpdate, round);
      team.barrier();
      if (thread == 0) after_round(team.size(), round, energy_only);
    }
    team.barrier();
    if (keep_q_ && status_ == Status::kOk) {
      for (int64_t i = mine.begin; i < mine.end; i += kChunk)
        write(i, int(smaller<int64_t>(kChunk, mine.end - i)), q_ + i * stride_);
    }
  }

  // Blurs in all: with the free energy wanted, one more evaluates it for the last Q.
  int rounds() const { return r_.iterations + (r_.free_energy ? 1 : 0); }

  // Thread 0 alone, between a barrier and the next one: what these set, the others read after that one.
  void after_first(int team_size) {
    for (int t = 0; t < team_size; ++t) {
      if (finite_[t]) continue;
      status_ = Status::kNotFinite;
      stop_ = true;
    }
    checkpoint();
  }
  void after_round(int team_size, int round, bool energy_only) {
    double energy = 0;
    T moved = 0;
    for (int t = 0; t < team_size; ++t) {
      energy += energy_[t] - shift_[t];
      moved = larger(moved, moved_[t]);
    }
    if (r_.free_energy) r_.free_energy[round] = energy;
    if (energy_only) return;
    r_.iterations_done = round + 1;
    if (r_.tolerance > 0 && moved < r_.tolerance) last_round_ = round + (r_.free_energy ? 1 : 0);
    checkpoint();
  }
  void checkpoint() {
    if (stop_ || !r_.checkpoint || r_.checkpoint(r_.checkpoint_data, r_.iterations_done)) return;
    status_ = Status::kInterrupted;
    stop_ = true;
  }

  void filter(Team& team, int thread, int k, int round) {
    const KernelView<T>& view = kernels_[k].view;
    if (view.lattice)
      kernels_[k].lattice.blur(team, thread, round, false);
    else
      kernels_[k].grid.filter(team, thread);
  }
  // The scalar weight, and the compatibility when the messages go straight into the scores.
  T gain(int k) const {
    const KernelView<T>& view = kernels_[k].view;
    return (view.weight_kind == Weight::kScalar ? view.weight : T(1)) * (direct_ ? r_.compat : T(1));
  }

  void pass(int thread, Range mine, Stage stage, int round) {
    energy_[thread] = 0;
    moved_[thread] = 0;
    const int splat_round = stage == Stage::kFirst ? 0 : round + 1;
    const bool last = stage == Stage::kEnergy || splat_round == rounds();
    for (int k = 0; k < r_.num_kernels && !last; ++k) {
      if (kernels_[k].view.lattice) kernels_[k].lattice.clear(thread, splat_round);
    }
    for (int64_t row = mine.begin; row < mine.end; row += row_points_) {
      const int64_t end = smaller(mine.end, row + row_points_);
      if (stage != Stage::kFirst) expand(thread, row);
      for (int64_t i = row; i < end; i += kChunk) {
        const int count = int(smaller<int64_t>(kChunk, end - i));
        if (stage != Stage::kFirst) {
          const char* ahead = reinterpret_cast<const char*>(scores_ + (i + kChunk) * stride_);
          for (int b = 0; b < kChunk * stride_ * int(sizeof(T)); b += 64) __builtin_prefetch(ahead + b, 0, 2);
        }
        T* rows = scratch(thread, 0);
        if (stage == Stage::kFirst)
          first_q(thread, i, count, rows);
        else if (stage == Stage::kUpdate)
          update(thread, i, count, round, rows);
        else
          messages(thread, i, count, round, rows);
        if (!last)
          splat(thread, i, count, splat_round, rows);
        else if (!keep_q_)
          write(i, count, rows);
      }
    }
  }

  void expand(int thread, int64_t first) {
    for (int k = 0; k < r_.num_kernels; ++k) {
      if (!kernels_[k].view.lattice)
        kernels_[k].expanded[thread] = kernels_[k].grid.expand(thread, first / row_points_);
    }
  }

  // Scores of the chunk into place, and Q_0 = softmax(scores), or the Q that the run continues from.
  void first_q(int thread, int64_t first, int count, T* rows) {
    T* scores = scores_ + first * stride_;
    bool finite = finite_points(r_.unary, r_.points, r_.labels, first, count);
    if (one_channel_)
      load_difference(r_.unary, r_.unary_sign, first, count, scores);
    else
      shift_[thread] += load_scores(first, count, scores);
    if (r_.initial) {
      finite = finite_points(r_.initial, r_.points, r_.labels, first, count) && finite;
      if (one_channel_)
        load_difference(r_.initial, T(1), first, count, rows);
      else
        load_points(r_.initial, r_.points, r_.labels, first, count, stride_, rows);
      for (int p = 0; p < count && r_.mask; ++p) {  // pixels that take no part always keep their own
        if (r_.mask[first + p]) continue;
        std::memcpy(static_cast<void*>(rows + p * stride_), scores + p * stride_,
                    size_t(stride_) * sizeof(T));
        normalise(1, rows + p * stride_);
      }
    } else {
      std::memcpy(static_cast<void*>(rows), scores, size_t(count) * stride_ * sizeof(T));
      normalise(count, rows);
    }
    if (!finite) finite_[thread] = false;
    if (keep_q_)
      std::memcpy(static_cast<void*>(q_ + first * stride_), rows, size_t(count) * stride_ * sizeof(T));
  }
  // Scores, less each pixel's largest one, which changes no probability, so that sums of scores and messages
  // keep their digits and padding is below every label; returns the sum of what the free energy then lacks.
  double load_scores(int64_t first, int count, T* scores) const {
    T most[kChunk];
    largest_of_points(r_.unary, r_.points, r_.labels, first, count, r_.unary_sign, most);
    transpose(r_.labels, count, r_.unary + first, r_.points, scores, int64_t(stride_),
              Shifted<T>{r_.unary_sign, most, T(kNever)});
    fill_padding(r_.labels, count, stride_, T(kNever), scores);
    double sum = 0;
    for (int p = 0; p < count; ++p) sum += !r_.mask || r_.mask[first + p] ? most[p] : T(0);
    return sum;
  }
  // For one channel: plane 1 minus plane 0.
  void load_difference(const T* planes, T factor, int64_t first, int count, T* rows) const {
    for (int p = 0; p < count; ++p) {
      const T difference = factor * (planes[r_.points + first + p] - planes[first + p]);
      rows[p] = larger(smaller(difference, T(-kNever)), T(kNever));
    }
  }

  void update(int thread, int64_t first, int count, int round, T* rows) {
    messages(thread, first, count, round, rows);
    normalise(count, rows);
    if (!keep_q_) return;
    T* old = q_ + first * stride_;
    T moved = moved_[thread];
    const T a = r_.damping;
    for (int64_t i = 0; i < int64_t(count) * stride_; ++i) {
      const T step = rows[i] < old[i] ? old[i] - rows[i] : rows[i] - old[i];
      moved = larger(moved, one_channel_ ? step / 2 : step);
      rows[i] = old[i] = a > 0 ? a * old[i] + (1 - a) * rows[i] : rows[i];
    }
    moved_[thread] = moved;
  }

  // rows = scores - energies of the messages; the free energy of the old Q is added up on the way.
  void messages(int thread, int64_t first, int count, int round, T* rows) {
    const T* scores = scores_ + first * stride_;
    if (direct_) {
      const T* in = scores;
      for (int k = 0; k < r_.num_kernels; ++k, in = rows) slice(thread, k, first, count, round, in, rows);
      if (in == scores) std::memcpy(static_cast<void*>(rows), scores, size_t(count) * stride_ * sizeof(T));
      return;
    }
    T* total = scratch(thread, 1);
    std::memset(static_cast<void*>(total), 0, size_t(count) * stride_ * sizeof(T));
    for (int k = 0; k < r_.num_kernels; ++k) add_message(thread, k, first, count, round, total);
    std::memcpy(static_cast<void*>(rows), scores, size_t(count) * stride_ * sizeof(T));
    if (r_.compat_kind == Weight::kMatrix)
      add_matrix(count, r_.labels, stride_, T(-1), compats_, total, rows);
    else if (r_.compat_kind == Weight::kVector)
      add_vector(count, stride_, T(-1), compats_, total, rows);
    else
      for (int64_t i = 0; i < int64_t(count) * stride_; ++i)
        rows[i] += r_.compat * total[i];  // Potts, up to a constant
    if (r_.free_energy) energy_[thread] += free_energy(first, count, total, rows);
  }

  // total += W_k * (filtered Q, without the self-message if so asked)
  void add_message(int thread, int k, int64_t first, int count, int round, T* total) {
    const KernelView<T>& view = kernels_[k].view;
    if (view.weight_kind == Weight::kScalar && !view.self)
      return slice(thread, k, first, count, round, total, total);
    T* message = scratch(thread, 2);
    slice(thread, k, first, count, round, scratch(thread, 3), message);
    if (view.self) {
      const T weight = view.weight_kind == Weight::kScalar ? view.weight : T(1);
      for (int p = 0; p < count; ++p) {
        const T own = weight * view.self[first + p];
        for (int c = 0; c < stride_; ++c) message[p * stride_ + c] -= own * q_[(first + p) * stride_ + c];
      }
    }
    if (view.weight_kind == Weight::kMatrix)
      add_matrix(count, r_.labels, stride_, T(1), kernels_[k].weights, message, total);
    else if (view.weight_kind == Weight::kVector)
      add_vector(count, stride_, T(1), kernels_[k].weights, message, total);
    else
      for (int64_t i = 0; i < int64_t(count) * stride_; ++i) total[i] += message[i];
  }

  // sum Q (U + log Q + E / 2), U = -scores, E = scores - rows; for Potts E_l = c (sum of total - total_l),
  // which adds a constant.
  double free_energy(int64_t first, int count, const T* total, const T* rows) const {
    double sum = 0;
    for (int p = 0; p < count; ++p) {
      if (r_.mask && !r_.mask[first + p]) continue;
      const T* q = q_ + (first + p) * stride_;
      const T* scores = scores_ + (first + p) * stride_;
      double potts = 0;
      for (int l = 0; l < r_.labels && r_.compat_kind == Weight::kScalar; ++l)
        potts += double(r_.compat) * total[p * stride_ + l];
      for (int l = 0; l < r_.labels; ++l) {
        if (!(q[l] > 0)) continue;
        double energy = double(scores[l]) - double(rows[p * stride_ + l]) + potts;
        sum += q[l] * (std::log(double(q[l])) - double(scores[l]) + 0.5 * energy);
      }
    }
    return sum;
  }

  void slice(int thread, int k, int64_t first, int count, int round, const T* in, T* out) {
    const KernelState<T>& kernel = kernels_[k];
    if (kernel.view.lattice) {
      kernel.lattice.slice(kernel.lattice.blurred(round), first, count, in,
                           gain(k) * kernel.view.lattice->alpha, kernel.view.norm_out, out);
    } else {
      const int64_t x = first % row_points_;
      kernel.grid.slice(kernel.expanded[thread], first - x, x, count, gain(k), in, kernel.view.norm_out, out);
    }
  }
  void splat(int thread, int64_t first, int count, int round, const T* rows) {
    for (int k = 0; k < r_.num_kernels; ++k) {
      KernelState<T>& kernel = kernels_[k];
      if (kernel.view.lattice) {
        kernel.lattice.splat(kernel.lattice.accumulator(thread, round), first, count, rows,
                             kernel.view.norm_in);
      } else {
        const int64_t x = first % row_points_;
        kernel.grid.splat(thread, first / row_points_, first - x, x, count, rows, kernel.view.norm_in);
      }
    }
  }

  void normalise(int count, T* rows) const {
    if (one_channel_)
      tanh_half_array(rows, count);
    else
      softmax(count, stride_, not_negative_, rows);
  }
  void write(int64_t first, int count, const T* rows) const {
    if (!one_channel_) return store_points(rows, stride_, r_.points, r_.labels, first, count, r_.probs);
    for (int p = 0; p < count; ++p) {
      r_.probs[first + p] = (1 - rows[p]) / 2;
      r_.probs[r_.points + first + p] = (1 + rows[p]) / 2;
    }
  }
  T* scratch(int thread, int i) const { return scratch_[thread] + int64_t(i) * kChunk * stride_; }

  MeanFieldRequest<T>& r_;
  KernelState<T>* kernels_;
  bool one_channel_;
  SlabPlan plan_;
  int stride_;
  bool direct_;               // scalar weights and Potts: messages are added to the scores as they are sliced
  bool not_negative_ = true;  // messages only add to scores, whose largest is 0
  bool keep_q_;
  bool grid_ = false;
  int64_t row_points_;
  T* scores_ = nullptr;  // [N, stride]
  T* q_ = nullptr;       // [N, stride] where keep_q_
  T* compats_ = nullptr;
  T* scratch_[kMaxThreads];
  bool finite_[kMaxThreads];
  double energy_[kMaxThreads];
  double shift_[kMaxThreads];  // sum of the largest scores, taken away from all scores
  T moved_[kMaxThreads];
  bool stop_ = false;
  int last_round_ = 0;
  Status status_ = Status::kOk;
};

// The kernels' states need constructors, so they do not live in the workspace.
template <class T>
class KernelStates {
 public:
  explicit KernelStates(int n) : states_(new (std::nothrow) KernelState<T>[size_t(n > 0 ? n : 1)]) {}
  ~KernelStates() { delete[] states_; }
  KernelState<T>* get() { return states_; }

 private:
  KernelState<T>* states_;
};

}  // namespace

template <class T>
size_t mean_field_workspace(const MeanFieldRequest<T>& request) {
  KernelStates<T> kernels(request.num_kernels);
  if (!kernels.get()) return 0;
  Arena arena(nullptr);
  MeanFieldRequest<T> copy = request;
  MeanField<T> layout(copy, kernels.get(), &arena);
  return arena.bytes();
}

template <class T>
Status mean_field(MeanFieldRequest<T>& request, void* workspace) {
  KernelStates<T> kernels(request.num_kernels);
  if (!kernels.get()) return Status::kOutOfMemory;
  Arena arena(workspace);
  MeanField<T> engine(request, kernels.get(), &arena);
  return engine.run();
}

template size_t mean_field_workspace(const MeanFieldRequest<float>&);
template size_t mean_field_workspace(const MeanFieldRequest<double>&);
template Status mean_field(MeanFieldRequest<float>&, void*);
template Status mean_field(MeanFieldRequest<double>&, void*);

DENSECRF_END
