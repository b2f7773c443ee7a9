#include <cmath>

#include "cuda/grid_stages.cuh"
#include "cuda/lanes.cuh"
#include "cuda/lattice_stages.cuh"
#include "cuda/term.cuh"

DENSECRF_BEGIN

// ---- filter

template <class T>
int64_t filter_work(const Kernel<T>& kernel, const Rows& rows) {
  if (kernel.grid) return rows.images * most_nodes_of(*kernel.grid) * rows.stride;
  const int64_t values = stored_values(*kernel.lattice, rows.stride);
  const int64_t borders = border_rows(*kernel.lattice) * rows.stride;
  return values > borders ? values : borders;
}
template <class T>
int64_t filtered_values(const Kernel<T>& kernel, const Rows& rows) {
  return kernel.grid ? rows.images * nodes_of(*kernel.grid) * rows.stride
                     : stored_values(*kernel.lattice, rows.stride);
}

template <class T>
void queue_filter(Queue* queue, const Rows& rows, const Kernel<T>& kernel, const T* from, const T* scale,
                  bool transpose, const FilterWork<T>& work, T* values) {
  if (kernel.grid)  // its own transpose
    return queue_grid(queue, *kernel.grid, rows.images, rows.stride, from, scale, work.buffer, values);
  // An even number of axes ends in the buffer where it began.
  const bool even = kernel.lattice->dims % 2;
  T *begin = even ? values : work.buffer[0], *other = even ? work.buffer[0] : values;
  queue_splat(queue, *kernel.lattice, rows.stride, from, scale, work.buffer[1], begin);
  queue_blur(queue, *kernel.lattice, rows.stride, transpose, begin, other);
}

// ---- update

namespace {

// A message is sliced from values on a lattice or a grid, or mixed.
template <class T>
struct Mixed {
  const T* matrix;  // transposed and padded, [L, stride], or null
  int labels;
};
template <class T, int V>
__device__ Pack<T, V> sliced(const Mixed<T>& mixed, int64_t point, int packs, int64_t i,
                             const Pack<T, V>* rows) {
  const Pack<T, V>* row = rows + point * packs;
  if (!mixed.matrix) return row[i];
  const Pack<T, V>* column = as_packs<V>(mixed.matrix) + i;
  Pack<T, V> sum{};
  for (int l = 0; l < mixed.labels; ++l) sum.add_scaled(row[l / V].value[l % V], column[int64_t(l) * packs]);
  return sum;
}

// A row while its lanes work on it: a pack of each lane in registers or, in rows too wide for that, in
// memory.
template <class T, int V, bool WIDE>
class LaneRow {
 public:
  __device__ LaneRow(int packs, Pack<T, V>* row) : packs_(packs), row_(row) {}

  // Calls f(i, pack) for the packs of this lane.
  template <class F>
  __device__ void each(F f) {
    if constexpr (WIDE) {
      for (int i = int(threadIdx.x); i < packs_; i += kWarp) {
        Pack<T, V> pack = row_[i];
        f(i, pack);
        row_[i] = pack;
      }
    } else {
      if (int(threadIdx.x) < packs_) f(int(threadIdx.x), own_);
    }
  }
  __device__ void store() {
    if constexpr (!WIDE) each([&](int i, const Pack<T, V>& pack) { row_[i] = pack; });
  }

 private:
  int packs_;
  Pack<T, V>* row_;
  Pack<T, V> own_;
};

template <class T, int V, bool WIDE>
__device__ void softmax(int labels, LaneRow<T, V, WIDE>* row) {
  constexpr T kNever = -T(INFINITY);
  T most = kNever, sum = 0;
  row->each([&](int i, Pack<T, V>& z) {
    for (int c = 0; c < V; ++c) {
      if (i * V + c >= labels) z.value[c] = kNever;
      if (most < z.value[c]) most = z.value[c];
    }
  });
  most = largest_of_lanes(most);
  row->each([&](int, Pack<T, V>& z) {
    for (T& value : z.value) {
      value = std::exp(value - most);
      sum += value;
    }
  });
  const T inverse = 1 / sum_of_lanes(sum);
  row->each([&](int, Pack<T, V>& z) { z.scale(inverse); });
}

template <class T, int V, bool WIDE>
__device__ void softmax_backward(const Pack<T, V>* q, Pack<T, V>* sum, LaneRow<T, V, WIDE>* row) {
  T mean = 0;
  row->each([&](int i, Pack<T, V>& g) { mean += dot(q[i], g); });
  mean = sum_of_lanes(mean);
  row->each([&](int i, Pack<T, V>& g) {
    for (T& value : g.value) value -= mean;
    g.multiply(q[i]);
    if (sum) sum[i].add(g);
  });
}

// A thread beyond the last point has no packs and only lends its lane to the others.
template <class T, class S, int V, bool WIDE, class Field>
__global__ void __launch_bounds__(kThreads)
    update_rows(int64_t points, int packs, int labels, Field field, const S* values, Update<T> update) {
  const int64_t point = row_of_thread(), at = point * packs;
  LaneRow<T, V, WIDE> row(point < points ? packs : 0, as_packs<V>(update.out) + at);
  row.each([&](int i, Pack<T, V>& out) {
    Pack<T, V> message = sliced(field, point, packs, i, as_packs<V>(values));
    if (update.vector) message.multiply(as_packs<V>(update.vector)[i]);
    out = update.base ? as_packs<V>(update.base)[at + i] : Pack<T, V>{};
    out.add_scaled(update.norm ? update.gain * update.norm[point] : update.gain, message);
  });
  if (update.ending == Ending::kSoftmax) softmax(labels, &row);
  if (update.ending == Ending::kSoftmaxBackward)
    softmax_backward(as_packs<V>(update.q) + at, update.sum ? as_packs<V>(update.sum) + at : nullptr, &row);
  row.store();
}

template <class T, class S, class Field>
void queue_update(Queue* queue, const Rows& rows, const Field& field, const S* values,
                  const Update<T>& update) {
  for_pack<T>(rows.stride, [&](auto width) {
    constexpr int V = decltype(width)::value;
    const int packs = rows.stride / V;
    const bool wide = packs > kWarp;
    auto* kernel = update_rows<T, S, V, false, Field>;
    if constexpr (V * sizeof(T) == 16) kernel = wide ? update_rows<T, S, V, true, Field> : kernel;
    queue->run(lane_blocks(rows.count(), packs), lane_threads(packs), kernel, rows.count(), packs,
               rows.labels, field, values, update);
  });
}

}  // namespace

template <class T>
void queue_sliced(Queue* queue, const Rows& rows, const Kernel<T>& kernel, const T* values,
                  const Update<T>& update) {
  if (kernel.grid) return queue_update(queue, rows, *kernel.grid, values, update);
  Update<T> scaled = update;
  scaled.gain *= kernel.lattice->alpha;
  as_stored(*kernel.lattice, values,
            [&](auto* stored) { queue_update(queue, rows, *kernel.lattice, stored, scaled); });
}
template <class T>
void queue_mixed(Queue* queue, const Rows& rows, const T* from, const T* matrix, const Update<T>& update) {
  queue_update(queue, rows, Mixed<T>{matrix, rows.labels}, from, update);
}

template int64_t filter_work(const Kernel<float>&, const Rows&);
template int64_t filter_work(const Kernel<double>&, const Rows&);
template int64_t filtered_values(const Kernel<float>&, const Rows&);
template int64_t filtered_values(const Kernel<double>&, const Rows&);
template void queue_filter(Queue*, const Rows&, const Kernel<float>&, const float*, const float*, bool,
                           const FilterWork<float>&, float*);
template void queue_filter(Queue*, const Rows&, const Kernel<double>&, const double*, const double*, bool,
                           const FilterWork<double>&, double*);
template void queue_sliced(Queue*, const Rows&, const Kernel<float>&, const float*, const Update<float>&);
template void queue_sliced(Queue*, const Rows&, const Kernel<double>&, const double*, const Update<double>&);
template void queue_mixed(Queue*, const Rows&, const float*, const float*, const Update<float>&);
template void queue_mixed(Queue*, const Rows&, const double*, const double*, const Update<double>&);

DENSECRF_END
