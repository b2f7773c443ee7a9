// Mean field (Kraehenbuehl & Koltun 2011, algorithm 1), fused: one pass over the points slices the filtered
// values of every kernel, adds the unary, applies the compatibility, takes the softmax and splats the new Q,
// chunk by chunk in cache.  Q is kept between passes only when something needs the old one (damping,
// tolerance, free energy, removal of the self-message).
#include <cmath>
#include <new>

#include "cpu/coupling.h"
#include "cpu/ops.h"
#include "cpu/points.h"
#include "cpu/scores.h"
#include "cpu/shares.h"
#include "cpu/softmax.h"
#include "cpu/term.h"

DENSECRF_BEGIN

namespace {

template <class T>
class MeanField {
 public:
  // Two labels under scalar couplings need one channel: with q = Q_1 - Q_0, the difference of the scores is z
  // + E K q, and q = tanh(z / 2).
  static bool needs_one_channel(const MeanFieldRequest<T>& r) {
    bool simple = r.labels == 2 && !r.free_energy && !r.logits && !r.states;
    for (int k = 0; k < r.num_kernels; ++k) simple = simple && r.kernels[k].coupling_kind == Weight::kScalar;
    return simple;
  }

  MeanField(MeanFieldRequest<T>& request, Term<T>* terms, Arena* arena)
      : r_(request),
        terms_(terms),
        one_channel_(needs_one_channel(request)),
        plan_(one_channel_ ? 1 : request.labels),
        not_negative_(messages_not_negative(request)) {
    const int64_t n = r_.points;
    stride_ = plan_.stride();
    bool self = false;
    for (int k = 0; k < r_.num_kernels; ++k) self = self || r_.kernels[k].self;
    keep_q_ = self || r_.free_energy || r_.damping > 0 || r_.tolerance > 0;
    const bool float16 = r_.float16 && !r_.states && !keep_q_;
    scores_.layout(n, stride_, float16 && !r_.logits && first_term_takes_float16(r_), arena);
    most_ = arena->template take<T>(r_.logits ? n : 0);
    q_ = keep_q_ ? arena->template take<T>(n * stride_) : nullptr;
    for (int t = 0; t < r_.threads; ++t) scratch_[t] = arena->template take<T>(2 * kChunk * stride_);
    // Chunks do not cross pixel rows where a grid kernel wants rows; otherwise the image is one row.
    row_points_ = n;
    bool grid = false;
    const int64_t step = mean_field_states(r_);
    T* states = r_.states;
    for (int k = 0; k < r_.num_kernels; ++k) {
      const KernelView<T>& view = r_.kernels[k];
      terms_[k].coupling.layout(view, r_.labels, plan_, arena);
      terms_[k].layout(view, plan_, r_.threads, arena,
                       states ? Rounds<T>{states, step, r_.iterations} : Rounds<T>{}, float16);
      if (states) states += Term<T>::values(view, plan_);
      if (!view.lattice) row_points_ = view.grid->size[2];
      grid = grid || !view.lattice;
    }
    if (r_.row_step > 1) row_points_ = r_.row_points;
    grid = grid || r_.row_step > 1;
    shares_.layout(r_.kernels, r_.num_kernels, n, grid ? row_points_ : int64_t(kChunk), r_.threads, arena);
  }

  Status run() {
    for (int k = 0; k < r_.num_kernels; ++k) terms_[k].coupling.fill();
    shares_.fill();
    r_.iterations_done = 0;
    last_round_ = rounds() - 1;
    parallel(r_.threads, [&](Team& team, int thread) { work(team, thread); });
    return status_;
  }

 private:
  enum class Stage { kFirst, kUpdate, kEnergy };

  void work(Team& team, int thread) {
    const Range mine = shares_.of(team.size(), thread);
    for (int k = 0; k < r_.num_kernels; ++k) terms_[k].start(thread, mine);
    finite_[thread] = true;
    shift_[thread] = 0;
    pass(thread, mine, Stage::kFirst, 0);
    team.barrier();
    if (thread == 0) after_first(team.size());
    for (int round = 0; round < rounds(); ++round) {
      for (int k = 0; k < r_.num_kernels; ++k) terms_[k].filter(team, thread, round, false);
      team.barrier();
      if (stop_ || round > last_round_ || (round == last_round_ && !r_.output)) break;
      const bool energy_only = r_.free_energy && round == last_round_;
      pass(thread, mine, energy_only ? Stage::kEnergy : Stage::kUpdate, round);
      team.barrier();
      if (thread == 0) after_round(team.size(), round, energy_only);
    }
    team.barrier();
    if (keep_q_ && !r_.logits && status_ == Status::kOk) {
      for_chunks(mine.begin, mine.end, r_.points,
                 [&](int64_t first, int count) { write(first, count, q_ + first * stride_); });
    }
  }

  // Blurs in all: with the free energy wanted, one more evaluates it for the last Q.
  int rounds() const { return r_.iterations + (r_.free_energy ? 1 : 0); }

  // Every so many-th row splats its Q_t.
  int row_step(int t) const { return larger(1, t + 1 < r_.iterations ? r_.row_step : r_.row_step / 2); }

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

  void pass(int thread, Range mine, Stage stage, int round) {
    energy_[thread] = 0;
    moved_[thread] = 0;
    const int t = stage == Stage::kFirst ? 0 : round + 1;  // of the Q_t that this pass computes
    const bool last = stage == Stage::kEnergy || t == rounds();
    for (int k = 0; k < r_.num_kernels && !last; ++k) terms_[k].clear(thread, t);
    for (int64_t row = mine.begin, end; row < mine.end; row = end) {
      end = smaller(mine.end, (row / row_points_ + 1) * row_points_);
      if (!last && (row / row_points_ + t) % row_step(t) != 0) {
        leave_out(thread, row, end, stage, t);
        continue;
      }
      for (int64_t i = row; i < end; i += kChunk) {
        const int count = int(smaller<int64_t>(kChunk, end - i));
        T* rows = scratch(thread, 0);
        if (stage == Stage::kFirst)
          first_q(thread, i, count, rows);
        else
          messages(thread, i, count, round, rows);
        if (last && r_.logits) {
          write_logits(i, count, stage == Stage::kFirst ? scores_.floats(i) : rows);
          continue;
        }
        if (stage == Stage::kUpdate) update(thread, i, count, rows);
        if (!last) {
          for (int k = 0; k < r_.num_kernels; ++k) terms_[k].splat(thread, i, count, t, rows);
          if (r_.kept && t > 0 && t % r_.keep_every == 0) keep(t / r_.keep_every - 1, i, count, rows);
        } else if (!keep_q_) {
          write(i, count, rows);
        }
      }
    }
  }

  // A row of which this pass needs no Q.
  void leave_out(int thread, int64_t row, int64_t end, Stage stage, int t) {
    for (int k = 0; k < r_.num_kernels; ++k) terms_[k].leave_out(thread, row, t);
    for (int64_t i = row; i < end && stage == Stage::kFirst; i += kChunk)
      load(thread, i, int(smaller<int64_t>(kChunk, end - i)), scratch(thread, 0));
  }

  // Brings the scores of the chunk into their place; returns them as they came, in `rows` where that place is
  // of half precision.
  const T* load(int thread, int64_t first, int count, T* rows) {
    T* scores = scores_.in_float16() ? rows : scores_.floats(first);
    bool finite = true;
    if (one_channel_) {
      finite = finite_points(r_.unary, r_.points, r_.labels, first, count);
      load_difference(r_.unary, r_.unary_sign, first, count, scores);
    } else {
      finite = load_scores(thread, r_.unary, first, count, scores);
    }
    if (!finite) finite_[thread] = false;
    if (scores_.in_float16()) scores_.keep_in_float16(first, count, scores);
    return scores;
  }
  // Q_0 = softmax(scores), or the Q that the run continues from.
  void first_q(int thread, int64_t first, int count, T* rows) {
    const T* scores = load(thread, first, count, r_.initial ? scratch(thread, 1) : rows);
    if (r_.initial) {
      const T* initial = r_.initial;
      if (!finite_points(initial, r_.points, r_.labels, first, count)) finite_[thread] = false;
      if (one_channel_)
        load_difference(initial, T(1), first, count, rows);
      else
        load_points(initial, r_.points, r_.labels, first, count, stride_, rows);
      for (int p = 0; p < count && r_.mask; ++p) {  // pixels that take no part always keep their own
        if (r_.mask[first + p]) continue;
        std::memcpy(static_cast<void*>(rows + p * stride_), scores + p * stride_,
                    size_t(stride_) * sizeof(T));
        normalise(1, rows + p * stride_);
      }
    } else {
      copy_rows(scores, count, rows);
      normalise(count, rows);
    }
    if (keep_q_) copy_rows(rows, count, q_ + first * stride_);
  }
  // Scores, less each pixel's largest one, whose sum the free energy then lacks.
  bool load_scores(int thread, const T* unary, int64_t first, int count, T* scores) {
    T most[kChunk];
    const bool finite =
        load_shifted(unary, r_.unary_sign, r_.points, r_.labels, first, count, stride_, most, scores);
    for (int p = 0; p < count && r_.logits; ++p) most_[first + p] = most[p];
    double sum = 0;
    for (int p = 0; p < count; ++p) sum += !r_.mask || r_.mask[first + p] ? most[p] : T(0);
    shift_[thread] += sum;
    return finite;
  }
  // For one channel: plane 1 minus plane 0.
  void load_difference(const T* from, T factor, int64_t first, int count, T* rows) const {
    for (int p = 0; p < count; ++p) {
      const T difference = factor * (from[r_.points + first + p] - from[first + p]);
      rows[p] = larger(smaller(difference, T(-kNever)), T(kNever));
    }
  }

  void update(int thread, int64_t first, int count, T* rows) {
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

  // rows = scores + messages; the free energy of the old Q is added up on the way.
  void messages(int thread, int64_t first, int count, int round, T* rows) {
    const T counted = T(row_step(round));
    const bool begun = scores_.in_float16();
    if (begun) {
      terms_[0].slice_onto_float16(thread, first, count, round, counted * terms_[0].coupling.scalar(),
                                   scores_.halves(first), rows);
    }
    const T* in = begun ? rows : scores_.floats(first);
    for (int k = begun ? 1 : 0; k < r_.num_kernels; ++k, in = rows) {
      Term<T>& term = terms_[k];
      if (term.coupling.is_scalar() && !term.view.self) {
        term.slice(thread, first, count, round, counted * term.coupling.scalar(), in, rows);
        continue;
      }
      copy_rows(in, count, rows);
      T* message = scratch(thread, 1);
      term.slice(thread, first, count, round, counted, nullptr, message);
      if (term.view.self) take_self_away(term.view.self, first, count, message);
      term.coupling.apply(count, message, rows);
    }
    copy_rows(in, count, rows);
    if (r_.free_energy) energy_[thread] += free_energy(first, count, rows);
  }
  void copy_rows(const T* from, int count, T* to) const {
    if (from != to) std::memcpy(static_cast<void*>(to), from, size_t(count) * stride_ * sizeof(T));
  }
  void take_self_away(const T* self, int64_t first, int count, T* message) const {
    for (int p = 0; p < count; ++p) {
      for (int c = 0; c < stride_; ++c)
        message[p * stride_ + c] -= self[first + p] * q_[(first + p) * stride_ + c];
    }
  }

  // sum Q (U + log Q + E / 2), U = -scores, E = scores - rows; for Potts E_l = sum of the messages -
  // message_l.
  double free_energy(int64_t first, int count, const T* rows) const {
    double sum = 0;
    for (int p = 0; p < count; ++p) {
      if (r_.mask && !r_.mask[first + p]) continue;
      const T* q = q_ + (first + p) * stride_;
      const T* scores = scores_.floats(first + p);
      double potts = 0;
      for (int l = 0; l < r_.labels && r_.potts; ++l)
        potts += double(rows[p * stride_ + l]) - double(scores[l]);
      for (int l = 0; l < r_.labels; ++l) {
        if (!(q[l] > 0)) continue;
        double energy = double(scores[l]) - double(rows[p * stride_ + l]) + potts;
        sum += q[l] * (std::log(double(q[l])) - double(scores[l]) + 0.5 * energy);
      }
    }
    return sum;
  }

  void normalise(int count, T* rows) const {
    if (one_channel_)
      tanh_half_array(rows, count);
    else
      softmax(count, stride_, not_negative_, rows);
  }
  void write(int64_t first, int count, const T* rows) const {
    T* out = r_.output;
    if (!one_channel_) return store_points(rows, stride_, r_.points, r_.labels, first, count, out);
    for (int p = 0; p < count; ++p) {
      out[first + p] = (1 - rows[p]) / 2;
      out[r_.points + first + p] = (1 + rows[p]) / 2;
    }
  }
  void write_logits(int64_t first, int count, const T* rows) const {
    T* out = r_.output;
    transpose(count, r_.labels, rows, int64_t(stride_), out + first, r_.points, AsIs());
    for (int l = 0; l < r_.labels; ++l) {
      for (int p = 0; p < count; ++p) out[l * r_.points + first + p] += most_[first + p];
    }
  }
  void keep(int index, int64_t first, int count, const T* rows) const {
    T* out = r_.kept + index * r_.kept_step;
    store_points(rows, stride_, r_.points, r_.labels, first, count, out);
  }
  T* scratch(int thread, int i) const { return scratch_[thread] + int64_t(i) * kChunk * stride_; }

  MeanFieldRequest<T>& r_;
  Term<T>* terms_;
  bool one_channel_;
  SlabPlan plan_;
  int stride_;
  bool not_negative_;
  bool keep_q_;
  int64_t row_points_;
  Shares<T> shares_;
  Scores<T> scores_;
  T* most_ = nullptr;  // [N] largest scores, where logits are wanted
  T* q_ = nullptr;     // [N, stride] where keep_q_
  T* scratch_[kMaxThreads];
  bool finite_[kMaxThreads];
  double energy_[kMaxThreads];
  double shift_[kMaxThreads];  // sum of the largest scores, taken away from all scores
  T moved_[kMaxThreads];
  bool stop_ = false;
  int last_round_ = 0;
  Status status_ = Status::kOk;
};

}  // namespace

template <class T>
int64_t mean_field_states(const MeanFieldRequest<T>& request) {
  int64_t values = 0;
  for (int k = 0; k < request.num_kernels; ++k)
    values += Term<T>::values(request.kernels[k], SlabPlan(request.labels));
  return values;
}

template <class T>
size_t mean_field_workspace(const MeanFieldRequest<T>& request) {
  Terms<T> terms(request.num_kernels);
  if (!terms.get()) return 0;
  Arena arena(nullptr);
  MeanFieldRequest<T> copy = request;
  MeanField<T> layout(copy, terms.get(), &arena);
  return arena.bytes();
}

template <class T>
Status mean_field(MeanFieldRequest<T>& request, void* workspace) {
  Terms<T> terms(request.num_kernels);
  if (!terms.get()) return Status::kOutOfMemory;
  Arena arena(workspace);
  MeanField<T> engine(request, terms.get(), &arena);
  return engine.run();
}

template int64_t mean_field_states(const MeanFieldRequest<float>&);
template int64_t mean_field_states(const MeanFieldRequest<double>&);
template size_t mean_field_workspace(const MeanFieldRequest<float>&);
template size_t mean_field_workspace(const MeanFieldRequest<double>&);
template Status mean_field(MeanFieldRequest<float>&, void*);
template Status mean_field(MeanFieldRequest<double>&, void*);

DENSECRF_END
