// Backward through mean_field: from the gradient g_T of the last update's scores to those of everything that
// went in.
//
// With z_{t+1} = s + sum_k E_k K_k Q_t and Q_t = softmax(z_t), z_0 = s, one step back is
//   v_k = K_k^T g_{t+1}        the filter with its axes blurred in reverse and its normalisation swapped
//   dQ  = sum_k E_k^T v_k      and dE_k += v_k Q_t^T, summed over the points
//   g_t = Q_t (dQ - Q_t . dQ)
// and ds is the sum of all g.  Like the forward pass it is fused: one pass over the points slices v_k,
// recomputes Q_t from the filtered values that the forward pass left, and splats g_t.
//
// K = diag(out) S B S^T diag(in), S holding the barycentric weights.  Gradients inside the filter want E^T g
// rather than g: then it is G_k = E_k^T g_{t+1} that is splatted (both commute: E works on labels, K on
// points), and with V the filtered values of Q_t and U those of G, point p and its corner c, V_p and U_p what
// is sliced of them without normalisation,
//   dQ_p = sum_k in_p U_p                 dE = g (out V_p)^T
//   dS[p, c] = out_p G_p . V_c + in_p Q_p . U_c
//   d out_p = G_p . V_p                   d in_p = Q_p . U_p
// A bandwidth of a grid is one more filter of what was splatted, with the taps' derivative (a probe).
#include "cpu/ops.h"
#include "cpu/points.h"
#include "cpu/shares.h"
#include "cpu/softmax.h"
#include "cpu/term.h"

DENSECRF_BEGIN

namespace {

template <class T>
class Backward {
 public:
  // [kernels] to read the filtered values of Q_{t-1}; [kernels + probes] to filter g.
  Backward(const MeanFieldGradRequest<T>& request, Term<T>* forward, Term<T>* backward, Arena* arena)
      : request_(request),
        r_(*request.forward),
        forward_(forward),
        backward_(backward),
        kernels_(r_.num_kernels),
        all_(r_.num_kernels + request.num_probes),
        inner_(request.num_probes > 0),
        plan_(r_.labels),
        stride_(plan_.stride()),
        row_points_(r_.points),
        not_negative_(messages_not_negative(r_)) {
    scores_ = arena->template take<T>(r_.points * stride_);
    sum_ = arena->template take<T>(r_.points * stride_);
    const int64_t step = mean_field_states(r_);
    T* states = r_.states;
    for (int k = 0; k < all_; ++k) layout_term(k, step, &states, arena);
    const int64_t unit = grid_ ? row_points_ : int64_t(kChunk);
    shares_.layout(r_.kernels, kernels_, r_.points, unit, r_.threads, arena);
    for (int t = 0; t < r_.threads; ++t) {
      scratch_[t] = arena->template take<T>(kScratch * kChunk * stride_);
      outer_[t] = arena->template take<double>(outer_at(kernels_));
      slopes_[t] = arena->template take<double>(request.num_probes);
      partial_[t] = arena->template take<T>(int64_t(stride_) * (any_matrix() ? r_.labels : 1));
      sliced_[t] = arena->template take<T>(int64_t(kernels_) * kChunk * stride_);
    }
  }

  Status run() {
    for (int k = 0; k < kernels_; ++k) forward_[k].coupling.fill();
    shares_.fill();
    parallel(r_.threads, [&](Team& team, int thread) { work(team, thread); });
    return status_;
  }

 private:
  enum Scratch { kQ, kG, kMessage, kMixed, kScratch };

  void layout_term(int k, int64_t step, T** states, Arena* arena) {
    const bool probe = k >= kernels_;
    KernelView<T> view = probe ? request_.probes[k - kernels_] : r_.kernels[k];
    if (!probe) {
      const TermGradient<T>& wanted = request_.gradients[k];
      forward_[k].coupling.layout(view, r_.labels, plan_, arena, true);
      forward_[k].layout_to_read(view, plan_, {*states, step, r_.iterations});
      if (*states) *states += Term<T>::values(view, plan_);
      inner_ = inner_ || wanted.weights || wanted.norm_out || wanted.norm_in;
    }
    const T* in = view.norm_in;
    view.norm_in = view.norm_out;
    view.norm_out = in;
    if (probe)
      backward_[k].layout_probe(view, plan_, r_.threads, arena, backward_[request_.probe_of[k - kernels_]]);
    else
      backward_[k].layout(view, plan_, r_.threads, arena);
    if (!view.lattice) row_points_ = view.grid->size[2];
    grid_ = grid_ || !view.lattice;
  }

  void work(Team& team, int thread) {
    const Range mine = shares_.of(team.size(), thread);
    std::memset(static_cast<void*>(outer_[thread]), 0, size_t(outer_at(kernels_)) * sizeof(double));
    for (int i = 0; i < request_.num_probes; ++i) slopes_[thread][i] = 0;
    for (int k = 0; k < all_; ++k) backward_[k].start(thread, mine);
    for (int k = 0; k < kernels_; ++k) {
      clear_gradients(request_.gradients[k], r_.kernels[k].lattice, mine);
      backward_[k].clear(thread, 0);
    }
    finite_[thread] = true;
    for_chunks(mine.begin, mine.end, row_points_,
               [&](int64_t first, int count) { load(thread, first, count); });
    team.barrier();
    if (thread == 0) check_finite(team.size());
    for (int t = r_.iterations - 1; t >= 0; --t) {
      for (int k = 0; k < all_; ++k) backward_[k].filter(team, thread, round(t), true);
      team.barrier();
      if (status_ != Status::kOk) return;
      for (int k = 0; k < kernels_ && t > 0; ++k) backward_[k].clear(thread, round(t) + 1);
      step_back(thread, mine, t);
      team.barrier();
      if (thread == 0) checkpoint();
    }
    team.barrier();
    if (thread == 0) add_threads(team.size());
    if (r_.iterations > 0) return;
    for_chunks(mine.begin, mine.end, r_.points,
               [&](int64_t first, int count) { store_sum(first, count, sum_ + first * stride_); });
  }
  // Filters of g, counted from the last iteration backward.
  int round(int t) const { return r_.iterations - 1 - t; }

  void clear_gradients(const TermGradient<T>& wanted, const LatticeView<T>* lattice, Range mine) const {
    const auto zero = [](T* values, int64_t from, int64_t to) {
      if (values) std::memset(static_cast<void*>(values + from), 0, size_t(to - from) * sizeof(T));
    };
    const int64_t corners = lattice ? lattice->dims + 1 : 0;
    zero(wanted.weights, mine.begin * corners, mine.end * corners);
    zero(wanted.norm_in, mine.begin, mine.end);
    zero(wanted.norm_out, mine.begin, mine.end);
  }
  void check_finite(int team_size) {
    for (int t = 0; t < team_size; ++t) {
      if (!finite_[t]) status_ = Status::kNotFinite;
    }
    checkpoint();
  }
  void checkpoint() {
    if (status_ != Status::kOk || !r_.checkpoint || r_.checkpoint(r_.checkpoint_data, 0)) return;
    status_ = Status::kInterrupted;
  }

  // Scores and g_T into place.
  void load(int thread, int64_t first, int count) {
    T most[kChunk];
    load_shifted(r_.unary, r_.unary_sign, r_.points, r_.labels, first, count, stride_, most,
                 scores_ + first * stride_);
    T* rows = sum_ + first * stride_;
    if (!load_points(request_.grad, r_.points, r_.labels, first, count, stride_, rows))
      finite_[thread] = false;
    if (r_.iterations == 0) return;
    for (int k = 0; k < kernels_ && inner_; ++k) slice_values(thread, k, first, count, r_.iterations);
    send(thread, first, count, r_.iterations, rows);
  }

  void step_back(int thread, Range mine, int t) {
    for (int64_t row = mine.begin, end; row < mine.end; row = end) {
      end = smaller(mine.end, (row / row_points_ + 1) * row_points_);
      for (int64_t i = row; i < end; i += kChunk) {
        const int count = int(smaller<int64_t>(kChunk, end - i));
        T *q = scratch(thread, kQ), *g = scratch(thread, kG);
        current_q(thread, i, count, t, q);
        receive(thread, i, count, t, q, g);
        softmax_backward(count, q, g, t > 0 ? sum_ + i * stride_ : nullptr);
        if (t > 0)
          send(thread, i, count, t, g);
        else
          finish(i, count, g);
      }
    }
  }

  // q = Q_t, from the filtered values of Q_{t-1}.
  void current_q(int thread, int64_t first, int count, int t, T* q) {
    if (t == 0 && r_.initial) {
      load_points(r_.initial, r_.points, r_.labels, first, count, stride_, q);
      return;
    }
    const T* in = scores_ + first * stride_;
    for (int k = 0; k < kernels_ && t > 0; ++k, in = q) {
      Term<T>& term = forward_[k];
      if (is_number(k)) {
        term.slice(thread, first, count, t - 1, term.coupling.scalar(), in, q);
        continue;
      }
      if (in != q) copy(count, in, q);
      if (inner_) {
        slice_values(thread, k, first, count, t);
        term.coupling.apply(count, message(thread, k, first, count), q);
      } else {
        term.slice(thread, first, count, t - 1, T(1), nullptr, sliced(thread, k));
        term.coupling.apply(count, sliced(thread, k), q);
      }
    }
    if (in != q) copy(count, in, q);
    softmax(count, stride_, not_negative_, q);
  }
  // What update t took from kernel k, and with the normalisation.
  void slice_values(int thread, int k, int64_t first, int count, int t) const {
    forward_[k].slice_without_norm(thread, first, count, t - 1, nullptr, sliced(thread, k));
  }
  const T* message(int thread, int k, int64_t first, int count) const {
    const T* norm = r_.kernels[k].norm_out;
    if (!norm) return sliced(thread, k);
    T* rows = scratch(thread, kMessage);
    clear(count, rows);
    add_normalised(T(1), norm, first, count, sliced(thread, k), rows);
    return rows;
  }

  // g_t, through update t: splatted for the next step back, and against what the update filtered.
  void send(int thread, int64_t first, int count, int t, const T* g) {
    for (int k = 0; k < kernels_; ++k) {
      const T* rows = inner_ ? mixed(thread, k, count, g) : g;
      backward_[k].splat(thread, first, count, round(t) + 1, rows);
      if (!inner_) continue;
      const TermGradient<T>& wanted = request_.gradients[k];
      if (wanted.couplings) add_couplings(thread, k, count, g, message(thread, k, first, count));
      if (wanted.norm_out) add_norm_grad(gain(k), first, count, rows, sliced(thread, k), wanted.norm_out);
      if (wanted.weights) forward_[k].add_weights_grad(first, count, t - 1, gain(k), rows, wanted.weights);
    }
  }
  // E^T g, or g itself where E is a number, which is then the gain of what comes of it.
  const T* mixed(int thread, int k, int count, const T* g) const {
    if (forward_[k].coupling.is_scalar()) return g;
    T* rows = scratch(thread, kMixed);
    clear(count, rows);
    forward_[k].coupling.apply_transposed(count, g, rows);
    return rows;
  }
  // Whether only E v is wanted of kernel k, E a number.
  bool is_number(int k) const { return forward_[k].coupling.is_scalar() && !inner_; }
  T gain(int k) const { return forward_[k].coupling.is_scalar() ? forward_[k].coupling.scalar() : T(1); }

  // g = dQ, from what the filters of g_{t+1} left, and gradients that Q_t has a part in.
  void receive(int thread, int64_t first, int count, int t, const T* q, T* g) {
    const T* in = nullptr;  // what the kernels so far have left in g
    for (int k = 0; k < kernels_; ++k, in = g) {
      const TermGradient<T>& wanted = request_.gradients[k];
      if (is_number(k)) {
        receive_number(thread, k, first, count, t, q, in, g);
        continue;
      }
      if (!in) clear(count, g);
      if (inner_) {
        T* values = scratch(thread, kMessage);
        backward_[k].slice_without_norm(thread, first, count, round(t), nullptr, values);
        if (wanted.norm_in) add_norm_grad(gain(k), first, count, q, values, wanted.norm_in);
        if (wanted.weights) backward_[k].add_weights_grad(first, count, round(t), gain(k), q, wanted.weights);
        add_normalised(gain(k), r_.kernels[k].norm_in, first, count, values, g);
      } else {
        T* v = scratch(thread, kMessage);
        backward_[k].slice(thread, first, count, round(t), T(1), nullptr, v);
        if (wanted.couplings) add_couplings(thread, k, count, v, q);
        forward_[k].coupling.apply_transposed(count, v, g);
      }
    }
    if (!in) clear(count, g);
    for (int i = 0; i < request_.num_probes; ++i) add_slope(thread, i, first, count, t, q);
  }
  // The same of one kernel whose coupling is a number: g = in + E v; in: null for zeros.
  void receive_number(int thread, int k, int64_t first, int count, int t, const T* q, const T* in,
                      T* g) const {
    if (!request_.gradients[k].couplings)
      return backward_[k].slice(thread, first, count, round(t), gain(k), in, g);
    T* v = scratch(thread, kMessage);
    backward_[k].slice(thread, first, count, round(t), T(1), nullptr, v);
    add_scaled_and_coupling(thread, k, count, v, q, in, g);
  }
  void add_slope(int thread, int probe, int64_t first, int count, int t, const T* q) const {
    T* v = scratch(thread, kMessage);
    backward_[kernels_ + probe].slice(thread, first, count, round(t), gain(request_.probe_of[probe]), nullptr,
                                      v);
    T products[kChunk], sum = 0;
    dots(count, q, v, products);
    for (int p = 0; p < count; ++p) sum += products[p];
    slopes_[thread][probe] += sum;
  }

  // Sum over the chunk's points of v q^T, or of its diagonal.
  void add_couplings(int thread, int k, int count, const T* v, const T* q) const {
    T* sums = partial_[thread];
    if (request_.gradients[k].coupling_kind == Weight::kMatrix) {
      outer_product(count, plan_, r_.labels, v, q, sums);
      return add_sums(thread, k, int64_t(r_.labels) * stride_);
    }
    for_slabs([&](auto w, int column) {
      using Slab = Row<T, decltype(w)::value>;
      auto sum = Slab::zero();
      for (int p = 0; p < count; ++p) {
        auto product = Slab::load(v + p * stride_ + column);
        product.multiply(Slab::load(q + p * stride_ + column));
        sum.add_scaled(T(1), product);
      }
      sum.store(sums + column);
    });
    add_sums(thread, k, stride_);
  }
  // The same, of the diagonal, and g = in + E v, in one pass over the rows.
  void add_scaled_and_coupling(int thread, int k, int count, const T* v, const T* q, const T* in,
                               T* g) const {
    const T factor = gain(k);
    for_slabs([&](auto w, int column) {
      using Slab = Row<T, decltype(w)::value>;
      auto sum = Slab::zero();
      for (int p = 0; p < count; ++p) {
        const int64_t at = p * stride_ + column;
        auto product = Slab::load(v + at);
        auto row = in ? Slab::load(in + at) : Slab::zero();
        row.add_scaled(factor, product);
        row.store(g + at);
        product.multiply(Slab::load(q + at));
        sum.add_scaled(T(1), product);
      }
      sum.store(partial_[thread] + column);
    });
    add_sums(thread, k, stride_);
  }
  void add_sums(int thread, int k, int64_t size) const {
    double* out = outer_[thread] + outer_at(k);
    for (int64_t i = 0; i < size; ++i) out[i] += partial_[thread][i];
  }
  bool any_matrix() const {
    bool any = false;
    for (int k = 0; k < kernels_; ++k) any = any || request_.gradients[k].coupling_kind == Weight::kMatrix;
    return any;
  }
  // Where term k's sums begin, and the length of all of them for k = kernels_.
  int64_t outer_at(int k) const {
    int64_t size = 0;
    for (int i = 0; i < k; ++i) {
      const TermGradient<T>& wanted = request_.gradients[i];
      if (wanted.couplings)
        size += wanted.coupling_kind == Weight::kMatrix ? int64_t(r_.labels) * stride_ : stride_;
    }
    return size;
  }
  // What the threads have summed up.
  void add_threads(int team_size) const {
    for (int i = 0; i < request_.num_probes; ++i) {
      double sum = 0;
      for (int t = 0; t < team_size; ++t) sum += slopes_[t][i];
      request_.slopes[i] = T(sum);
    }
    for (int k = 0; k < kernels_; ++k) {
      const TermGradient<T>& wanted = request_.gradients[k];
      const int rows = !wanted.couplings ? 0 : wanted.coupling_kind == Weight::kMatrix ? r_.labels : 1;
      for (int l = 0; l < rows; ++l) {
        for (int c = 0; c < r_.labels; ++c) {
          double sum = 0;
          for (int t = 0; t < team_size; ++t) sum += outer_[t][outer_at(k) + int64_t(l) * stride_ + c];
          wanted.couplings[int64_t(l) * r_.labels + c] = T(sum);
        }
      }
    }
  }

  // Gradient of a normalisation's factors, from the rows on either side of them.
  void add_norm_grad(T gain, int64_t first, int count, const T* rows, const T* values, T* grad) const {
    T products[kChunk];
    dots(count, rows, values, products);
    for (int p = 0; p < count; ++p) grad[first + p] += gain * products[p];
  }
  // out += gain * norm * values
  void add_normalised(T gain, const T* norm, int64_t first, int count, const T* values, T* out) const {
    for (int p = 0; p < count; ++p, values += stride_, out += stride_) {
      const T factor = norm ? gain * norm[first + p] : gain;
      for (int c = 0; c < stride_; ++c) out[c] += factor * values[c];
    }
  }

  // g <- q (g - q . g); added to the sum, if any, while it is in registers.
  void softmax_backward(int count, const T* q, T* g, T* sum) const {
    T mean[kChunk];
    dots(count, q, g, mean);
    for_slabs([&](auto w, int column) {
      constexpr int W = decltype(w)::value;
      using Slab = Row<T, W>;
      for (int p = 0; p < count; ++p) {
        const int64_t at = p * stride_ + column;
        auto row = Slab::load(g + at);
        row.add(-mean[p]);
        row.multiply(Slab::load(q + at));
        row.store(g + at);
        if (!sum) continue;
        if (W * sizeof(T) >= 32) prefetch_row<W, true>(sum + kChunk * stride_ + at);  // of the next chunk
        row.add_scaled(T(1), sum + at);
        row.store(sum + at);
      }
    });
  }

  // Products of two chunks' rows.
  void dots(int count, const T* a, const T* b, T* out) const {
    for (int p = 0; p < count; ++p) out[p] = 0;
    for_slabs([&](auto w, int column) {
      using Slab = Row<T, decltype(w)::value>;
      for (int p = 0; p < count; ++p) {
        auto product = Slab::load(a + p * stride_ + column);
        product.multiply(Slab::load(b + p * stride_ + column));
        out[p] += total(product);
      }
    });
  }
  template <class F>
  void for_slabs(F&& f) const {
    for (int s = 0; s < plan_.slabs(); ++s) for_width(plan_.width(s), [&](auto w) { f(w, plan_.column(s)); });
  }

  // The gradient of the scores: the sum and the last g, g_0, which is that of the start where a run has one.
  void finish(int64_t first, int count, T* g) {
    T* sum = sum_ + first * stride_;
    if (r_.initial) {
      store(g, first, count, request_.grad_initial);
      return store_sum(first, count, sum);
    }
    for (int64_t i = 0; i < int64_t(count) * stride_; ++i) g[i] += sum[i];
    store_sum(first, count, g);
  }
  void store_sum(int64_t first, int count, T* rows) const {
    for (int64_t i = 0; i < int64_t(count) * stride_ && r_.unary_sign != 1; ++i) rows[i] *= r_.unary_sign;
    store(rows, first, count, request_.grad_unary);
  }

  void store(const T* rows, int64_t first, int count, T* out) const {
    store_points(rows, stride_, r_.points, r_.labels, first, count, out);
  }
  void clear(int count, T* rows) const {
    std::memset(static_cast<void*>(rows), 0, size_t(count) * stride_ * sizeof(T));
  }
  void copy(int count, const T* from, T* to) const {
    std::memcpy(static_cast<void*>(to), from, size_t(count) * stride_ * sizeof(T));
  }
  T* sliced(int thread, int k) const { return sliced_[thread] + int64_t(k) * kChunk * stride_; }
  T* scratch(int thread, Scratch i) const { return scratch_[thread] + int64_t(i) * kChunk * stride_; }

  const MeanFieldGradRequest<T>& request_;
  const MeanFieldRequest<T>& r_;
  Term<T>* forward_;
  Term<T>* backward_;
  int kernels_, all_;
  bool inner_;  // a gradient of barycentric weights, normalisation or bandwidths is wanted
  SlabPlan plan_;
  int stride_;
  int64_t row_points_;
  bool not_negative_;
  Shares<T> shares_;
  bool grid_ = false;
  T* scores_ = nullptr;          // [N, stride]
  T* sum_ = nullptr;             // [N, stride] of all g but the last
  double* outer_[kMaxThreads];   // the couplings' gradients, thread by thread
  double* slopes_[kMaxThreads];  // and those of the probes' bandwidths
  T* partial_[kMaxThreads];      // a chunk's part of them
  T* scratch_[kMaxThreads];
  T* sliced_[kMaxThreads];  // [kernels, chunk, stride] what an update took, without normalisation
  bool finite_[kMaxThreads];
  Status status_ = Status::kOk;
};

}  // namespace

template <class T>
size_t mean_field_backward_workspace(const MeanFieldGradRequest<T>& request) {
  const int kernels = request.forward->num_kernels;
  Terms<T> forward(kernels), backward(kernels + request.num_probes);
  if (!forward.get() || !backward.get()) return 0;
  Arena arena(nullptr);
  Backward<T> layout(request, forward.get(), backward.get(), &arena);
  return arena.bytes();
}

template <class T>
Status mean_field_backward(const MeanFieldGradRequest<T>& request, void* workspace) {
  const int kernels = request.forward->num_kernels;
  Terms<T> forward(kernels), backward(kernels + request.num_probes);
  if (!forward.get() || !backward.get()) return Status::kOutOfMemory;
  Arena arena(workspace);
  Backward<T> engine(request, forward.get(), backward.get(), &arena);
  return engine.run();
}

template size_t mean_field_backward_workspace(const MeanFieldGradRequest<float>&);
template size_t mean_field_backward_workspace(const MeanFieldGradRequest<double>&);
template Status mean_field_backward(const MeanFieldGradRequest<float>&, void*);
template Status mean_field_backward(const MeanFieldGradRequest<double>&, void*);

DENSECRF_END
