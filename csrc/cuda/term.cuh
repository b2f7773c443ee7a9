// A pairwise term of the mean field: the filter of its kernel, and what the filtered values add to the rows
// of the points.
#pragma once
#include "cuda/launch.cuh"

DENSECRF_BEGIN

// Rows [B * n, stride] of L labels.  Padding is anything in scores and 0 elsewhere.
struct Rows {
  int images;
  int64_t points;
  int labels, stride;

  int64_t count() const { return images * points; }
  int64_t values() const { return count() * stride; }
};

// Where filters work, one after the other.
template <class T>
struct FilterWork {
  T* buffer[2];
};
template <class T>
int64_t filter_work(const Kernel<T>& kernel, const Rows& rows);  // values of each buffer
template <class T>
int64_t filtered_values(const Kernel<T>& kernel, const Rows& rows);

// values = the filter of `from`, times scale[point] unless that is null, on the vertices or nodes.
template <class T>
void queue_filter(Queue* queue, const Rows& rows, const Kernel<T>& kernel, const T* from, const T* scale,
                  bool transpose, const FilterWork<T>& work, T* values);

enum class Ending { kNone, kSoftmax, kSoftmaxBackward };

// out = base + gain * vector * norm * message, and then
//   kSoftmax            out = softmax(out)
//   kSoftmaxBackward    out = q * (out - q . out); sum += out
template <class T>
struct Update {
  T* out;                   // [B n, stride]
  const T* base = nullptr;  // [B n, stride] or null
  T gain = 1;
  const T* vector = nullptr;  // [stride] or null
  const T* norm = nullptr;    // [B n] or null
  Ending ending = Ending::kNone;
  const T* q = nullptr;  // [B n, stride]
  T* sum = nullptr;      // [B n, stride] or null
};

// With the kernel's values, sliced, as the message.
template <class T>
void queue_sliced(Queue* queue, const Rows& rows, const Kernel<T>& kernel, const T* values,
                  const Update<T>& update);
// With rows as the message, or their products with a matrix, given transposed and padded: [L, stride].
template <class T>
void queue_mixed(Queue* queue, const Rows& rows, const T* from, const T* matrix, const Update<T>& update);

DENSECRF_END
