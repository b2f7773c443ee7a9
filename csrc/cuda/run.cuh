// What the forward and the backward pass of a mean field share: scores, couplings, and the update of Q.
#pragma once
#include "cuda/rows.cuh"
#include "cuda/term.cuh"

DENSECRF_BEGIN

// E, or E^T, of one term.
template <class T>
struct Coupling {
  T gain;
  const T* vector;  // [stride] or null
  const T* matrix;  // transposed and padded, [L, stride], or null
};

template <class T>
struct Run {
  const MeanField<T>& request;
  Rows rows;
  T* scores;   // [B n, stride] z_0
  T* z;        // [B n, stride] scores and the messages of some terms
  T* q;        // [B n, stride]
  T* message;  // [B n, stride]
  T* values;   // filtered values that are not kept
  FilterWork<T> work;

  Run(const MeanField<T>& mean_field, bool backward, Arena* arena)
      : request(mean_field),
        rows{request.images, request.points, request.labels, row_stride(request.labels)} {
    int64_t most_values = 0, most_work = 0;
    bool messages = backward;
    for (int k = 0; k < request.num_kernels; ++k) {
      const Kernel<T>& kernel = request.kernels[k];
      const int64_t its_values = filtered_values(kernel, rows), its_work = filter_work(kernel, rows);
      if (its_values > most_values) most_values = its_values;
      if (its_work > most_work) most_work = its_work;
      messages = messages || kernel.coupling_kind == Weight::kMatrix;
    }
    for (T** array : {&scores, &z, &q}) *array = arena->template take<T>(rows.values());
    message = arena->template take<T>(messages ? rows.values() : 0);
    values = arena->template take<T>(most_values);
    for (T*& buffer : work.buffer) buffer = arena->template take<T>(most_work);
    couplings_ = arena->template take<T>(2 * request.num_kernels * matrix_values());
  }

  // Brings scores and couplings into place.
  void load(Queue* queue) const {
    queue_load(queue, rows.images, rows.labels, rows.points, request.logits, scores);
    const int L = rows.labels, stride = rows.stride;
    for (int k = 0; k < request.num_kernels; ++k) {
      const Kernel<T>& kernel = request.kernels[k];
      if (kernel.coupling_kind == Weight::kScalar) continue;
      const bool matrix = kernel.coupling_kind == Weight::kMatrix;
      const int lines = matrix ? L : 1;
      queue_transpose(queue, 1, lines, rows_layout(L, lines, L), kernel.couplings,
                      rows_layout(stride, lines, stride), padded(k, true));
      if (matrix) queue_load(queue, 1, L, L, kernel.couplings, padded(k, false));
    }
  }
  Coupling<T> coupling(int k, bool transpose) const {
    const Kernel<T>& kernel = request.kernels[k];
    if (kernel.coupling_kind == Weight::kScalar) return {kernel.coupling, nullptr, nullptr};
    if (kernel.coupling_kind == Weight::kVector) return {T(1), padded(k, true), nullptr};
    return {T(1), nullptr, padded(k, transpose)};
  }

  int64_t states() const {
    int64_t values = 0;
    for (int k = 0; k < request.num_kernels; ++k) values += filtered_values(request.kernels[k], rows);
    return values;
  }
  // Term k's filtered values of Q_t.
  T* values_of(int t, int k) const {
    if (!request.states) return values;
    T* at = request.states + t * states();
    for (int i = 0; i < k; ++i) at += filtered_values(request.kernels[i], rows);
    return at;
  }

  void first_q(Queue* queue) const {
    if (!request.initial) return softmax_scores(queue);
    queue_load(queue, rows.images, rows.labels, rows.points, request.initial, q);
  }
  void softmax_scores(Queue* queue) const {
    Update<T> update{q};
    update.ending = Ending::kSoftmax;
    queue_mixed<T>(queue, rows, scores, nullptr, update);
  }
  // Term k's part of the update of Q_t, all terms in their order; the last one leaves Q_{t+1}, or z_{t+1}.
  void add_term(Queue* queue, int t, int k, bool softmax) const {
    const bool ends = softmax && k == request.num_kernels - 1;
    Update<T> update{ends ? q : z};
    update.base = k == 0 ? scores : z;
    update.ending = ends ? Ending::kSoftmax : Ending::kNone;
    queue_coupled(queue, k, values_of(t, k), request.kernels[k].norm_out, coupling(k, false), update);
  }
  // update, with the normalised slice of term k's values under a coupling as the message.
  void queue_coupled(Queue* queue, int k, const T* filtered, const T* norm, const Coupling<T>& coupling,
                     Update<T> update) const {
    if (coupling.matrix) {
      queue_message(queue, request.kernels[k], filtered, norm, T(1));
      return queue_mixed(queue, rows, message, coupling.matrix, update);
    }
    update.gain = coupling.gain;
    update.vector = coupling.vector;
    update.norm = norm;
    queue_sliced(queue, rows, request.kernels[k], filtered, update);
  }
  // message = gain * norm * slice of the values
  void queue_message(Queue* queue, const Kernel<T>& kernel, const T* filtered, const T* norm, T gain) const {
    Update<T> update{message};
    update.gain = gain;
    update.norm = norm;
    queue_sliced(queue, rows, kernel, filtered, update);
  }

 private:
  int64_t matrix_values() const { return int64_t(rows.labels) * rows.stride; }
  // A vector, or E^T or E transposed.
  T* padded(int k, bool transpose) const { return couplings_ + (2 * k + transpose) * matrix_values(); }

  T* couplings_;  // [num_kernels, 2, L, stride]
};

DENSECRF_END
