// Backward through mean_field.  csrc/cpu/mean_field_backward.cpp has the equations and the names; here every
// step of them is a launch over the rows of all points.
#include "cuda/run.cuh"
#include "cuda/sides.cuh"
#include "cuda/sums.cuh"

DENSECRF_BEGIN

namespace {

template <class T>
class Backward {
 public:
  Backward(const MeanFieldGrad<T>& request, Arena* arena)
      : request_(request),
        kernels_(request.forward->num_kernels),
        inner_(request.num_probes > 0),
        run_(*request.forward, true, arena),
        rows_(run_.rows) {
    bool any = request.num_probes > 0, matrix = false;
    for (int k = 0; k < kernels_; ++k) {
      const TermGradient<T>& wanted = request.gradients[k];
      inner_ = inner_ || wanted.weights || wanted.norm_in || wanted.norm_out;
      any = any || wanted.couplings;
      matrix = matrix || (wanted.couplings && wanted.coupling_kind == Weight::kMatrix);
    }
    const int64_t diagonal = SumShape(rows_, false).values(rows_), full = SumShape(rows_, true).values(rows_);
    each_sums_ = !any ? 0 : matrix && full > diagonal ? full : diagonal;
    sums_ = arena->template take<T>(all_sums());
    total_ = arena->template take<T>(rows_.values());
    g_ = arena->template take<T>(rows_.values());
    mixed_ = arena->template take<T>(inner_ ? rows_.values() : 0);
  }

  void run(Queue* queue) const {
    const MeanField<T>& forward = run_.request;
    run_.load(queue);
    queue_load(queue, rows_.images, rows_.labels, rows_.points, request_.grad, total_);
    clear(queue);
    const T* g = total_;  // g_T, before anything is added to it
    for (int t = forward.iterations - 1; t >= 0; --t, g = g_) {
      queue_q(queue, t);
      for (int k = 0; k < kernels_; ++k) step_back(queue, t, k, g);
    }
    store(queue, total_, request_.grad_logits);
    if (forward.initial) store(queue, g_, request_.grad_initial);
    for (int k = 0; k < kernels_; ++k) {
      const TermGradient<T>& wanted = request_.gradients[k];
      if (wanted.couplings) queue_add_up(queue, rows_, is_matrix(wanted), sums_of(k), wanted.couplings);
    }
    for (int i = 0; i < request_.num_probes; ++i)
      queue_add_up_all(queue, rows_, sums_of(kernels_ + i), request_.slopes + i);
  }

 private:
  static bool is_matrix(const TermGradient<T>& wanted) { return wanted.coupling_kind == Weight::kMatrix; }

  void clear(Queue* queue) const {
    const auto zero = [&](T* values, int64_t count) {
      if (values && count > 0) queue->fill(values, 0, size_t(count) * sizeof(T));
    };
    zero(sums_, all_sums());
    if (kernels_ == 0) zero(g_, rows_.values());
    for (int k = 0; k < kernels_; ++k) {
      const TermGradient<T>& wanted = request_.gradients[k];
      const Lattice<T>* lattice = run_.request.kernels[k].lattice;
      if (lattice) zero(wanted.weights, rows_.count() * (lattice->dims + 1));
      zero(wanted.norm_in, rows_.count());
      zero(wanted.norm_out, rows_.count());
    }
  }

  // Q_t, from the filtered values of Q_{t-1}.
  void queue_q(Queue* queue, int t) const {
    if (t == 0) return run_.first_q(queue);
    for (int k = 0; k < kernels_; ++k) run_.add_term(queue, t - 1, k, true);
  }

  // Term k's part of the step from g = g_{t+1} to g_t; the last term leaves that in g_ and in the total.
  void step_back(Queue* queue, int t, int k, const T* g) const {
    const Kernel<T>& kernel = run_.request.kernels[k];
    const TermGradient<T>& wanted = request_.gradients[k];
    const bool ends = k == kernels_ - 1;
    Update<T> update{ends ? g_ : run_.z};
    update.base = k == 0 ? nullptr : run_.z;
    if (ends) {
      update.ending = Ending::kSoftmaxBackward;
      update.q = run_.q;
      update.sum = t == 0 && run_.request.initial ? nullptr : total_;
    }
    const Coupling<T> back = run_.coupling(k, true);
    if (inner_) {
      const T* rows = g;  // E^T g, up to a number
      if (back.vector || back.matrix) {
        rows = mixed_;
        Update<T> mix{mixed_};
        mix.vector = back.vector;
        queue_mixed(queue, rows_, g, back.matrix, mix);
      }
      queue_probes(queue, k, back.gain, rows);
      queue_inner(queue, t, k, back.gain, g, rows);
      run_.queue_coupled(queue, k, run_.values, kernel.norm_in, {back.gain, nullptr, nullptr}, update);
      return;
    }
    filter(queue, kernel, g);
    if (!wanted.couplings) return run_.queue_coupled(queue, k, run_.values, kernel.norm_in, back, update);
    run_.queue_message(queue, kernel, run_.values, kernel.norm_in, T(1));
    queue_sums(queue, rows_, is_matrix(wanted), run_.message, run_.q, sums_of(k));
    update.gain = back.gain;
    update.vector = back.vector;
    queue_mixed(queue, rows_, run_.message, back.matrix, update);
  }
  void filter(Queue* queue, const Kernel<T>& kernel, const T* rows) const {
    queue_filter(queue, rows_, kernel, rows, kernel.norm_out, true, run_.work, run_.values);
  }

  void queue_probes(Queue* queue, int k, T gain, const T* rows) const {
    for (int i = 0; i < request_.num_probes; ++i) {
      if (request_.probe_of[i] != k) continue;
      Kernel<T> probe = run_.request.kernels[k];
      probe.grid = request_.probes + i;
      filter(queue, probe, rows);
      run_.queue_message(queue, probe, run_.values, probe.norm_in, gain);
      queue_sums(queue, rows_, false, run_.message, run_.q, sums_of(kernels_ + i));
    }
  }

  // Filters rows, and what the couplings, the weights and the normalisation get from both sides of the
  // filter.
  void queue_inner(Queue* queue, int t, int k, T gain, const T* g, const T* rows) const {
    const Kernel<T>& kernel = run_.request.kernels[k];
    const TermGradient<T>& wanted = request_.gradients[k];
    const T* forward_values = run_.values_of(t, k);
    if (wanted.couplings) {
      run_.queue_message(queue, kernel, forward_values, kernel.norm_out, T(1));
      queue_sums(queue, rows_, is_matrix(wanted), g, run_.message, sums_of(k));
    }
    filter(queue, kernel, rows);
    const Side<T> sides[2] = {
        {rows, gain, forward_values, kernel.norm_out, wanted.weights, wanted.norm_out},
        {run_.q, gain, run_.values, kernel.norm_in, wanted.weights, wanted.norm_in},
    };
    for (const Side<T>& side : sides) {
      if (kernel.lattice && (side.grad_weights || side.grad_norm))
        queue_side(queue, rows_, *kernel.lattice, side);
      if (kernel.grid && side.grad_norm) queue_side(queue, rows_, *kernel.grid, side);
    }
  }

  int64_t all_sums() const { return (kernels_ + request_.num_probes) * each_sums_; }
  // Of the couplings of each kernel, then of the probes.
  T* sums_of(int i) const { return sums_ + i * each_sums_; }
  void store(Queue* queue, const T* rows, T* planes) const {
    queue_store(queue, rows_.images, rows_.labels, rows_.points, rows, planes);
  }

  const MeanFieldGrad<T>& request_;
  const int kernels_;
  bool inner_;  // a gradient of weights, normalisation or bandwidths is wanted
  const Run<T> run_;
  const Rows rows_;
  int64_t each_sums_;
  T* sums_;   // [kernels + probes, each_sums_]
  T* total_;  // [B n, stride] of all g
  T* g_;      // [B n, stride]
  T* mixed_;  // [B n, stride] of a term whose coupling is no number
};

}  // namespace

template <class T>
size_t mean_field_backward_workspace(const MeanFieldGrad<T>& request) {
  Arena arena(nullptr);
  Backward<T> backward(request, &arena);
  return arena.bytes();
}

template <class T>
Status mean_field_backward(const MeanFieldGrad<T>& request, void* workspace, Stream stream) {
  Arena arena(workspace);
  Queue queue(stream);
  Backward<T>(request, &arena).run(&queue);
  return queue.status();
}

template size_t mean_field_backward_workspace(const MeanFieldGrad<float>&);
template size_t mean_field_backward_workspace(const MeanFieldGrad<double>&);
template Status mean_field_backward(const MeanFieldGrad<float>&, void*, Stream);
template Status mean_field_backward(const MeanFieldGrad<double>&, void*, Stream);

DENSECRF_END
