// Mean field (Kraehenbuehl & Koltun 2011, algorithm 1) of a batch.  Everything works on rows of the points;
// in every iteration each term is filtered and its slice added in one launch, and the last one's launch takes
// the softmax, too.
#include "cuda/run.cuh"

DENSECRF_BEGIN

template <class T>
int64_t mean_field_states(const MeanField<T>& request) {
  Arena arena(nullptr);
  return Run<T>(request, false, &arena).states();
}

template <class T>
size_t mean_field_workspace(const MeanField<T>& request) {
  Arena arena(nullptr);
  Run<T> run(request, false, &arena);
  return arena.bytes();
}

template <class T>
Status mean_field(const MeanField<T>& request, void* workspace, Stream stream) {
  Arena arena(workspace);
  const Run<T> run(request, false, &arena);
  const Rows& rows = run.rows;
  Queue queue(stream);
  const auto store = [&](const T* from, T* planes) {
    queue_store(&queue, rows.images, rows.labels, rows.points, from, planes);
  };
  run.load(&queue);
  if (request.iterations > 0) run.first_q(&queue);
  for (int t = 0; t < request.iterations; ++t) {
    const bool last = t + 1 == request.iterations;
    if (request.kept && t > 0 && t % request.keep_every == 0)
      store(run.q, request.kept + (t / request.keep_every - 1) * rows.count() * rows.labels);
    if (request.num_kernels == 0) run.softmax_scores(&queue);
    for (int k = 0; k < request.num_kernels; ++k) {
      const Kernel<T>& kernel = request.kernels[k];
      queue_filter(&queue, rows, kernel, run.q, kernel.norm_in, false, run.work, run.values_of(t, k));
      if (!last || request.output) run.add_term(&queue, t, k, !last);
    }
  }
  const bool updated = request.iterations > 0 && request.num_kernels > 0;
  if (request.output) store(updated ? run.z : run.scores, request.output);
  return queue.status();
}

template int64_t mean_field_states(const MeanField<float>&);
template int64_t mean_field_states(const MeanField<double>&);
template size_t mean_field_workspace(const MeanField<float>&);
template size_t mean_field_workspace(const MeanField<double>&);
template Status mean_field(const MeanField<float>&, void*, Stream);
template Status mean_field(const MeanField<double>&, void*, Stream);

DENSECRF_END
