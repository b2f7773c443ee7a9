// What the range of its features decides about a lattice, and how its points are located.
#pragma once
#include "core/extent.h"
#include "cuda/rows.cuh"

DENSECRF_BEGIN

template <class T>
Extent extent_of(const BuildRequest<T>& request) {
  double lo[kMaxDims], hi[kMaxDims];
  for (int j = 0; j < request.dims; ++j) {
    lo[j] = request.pad_origin && request.lo[j] > 0 ? 0 : double(request.lo[j]);
    hi[j] = request.pad_origin && request.hi[j] < 0 ? 0 : double(request.hi[j]);
  }
  return elevated_extent(request.dims, request.scale, lo, hi);
}

// Calls f(C(), Width<D>()) with the arithmetic and, where the code is for one number of dimensions, that
// number, else 0.
template <class T, class F>
void for_arithmetic(const BuildRequest<T>& request, F f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (wants_double<T>(extent_of(request))) return f(double(), Width<0>());
  }
  // For the usual numbers everything is in registers; else arrays of kMaxDims are in local memory, of which a
  // device sets aside some 0.5 GB for all the threads that it may run.
  if (request.dims == 2) return f(T(), Width<2>());  // positions
  if (request.dims == 3) return f(T(), Width<3>());  // with a grey value
  if (request.dims == 5) return f(T(), Width<5>());  // with a colour
  if (request.dims == 6) return f(T(), Width<6>());  // in a volume
  f(T(), Width<0>());
}

// A point on its way into the lattice.
template <class C>
struct Elevation {
  int dims;
  C scales[kMaxDims];

  Elevation(int dims, double scale) : dims(dims) { elevation_scales(dims, scale, scales); }

  template <int D, class T>
  __device__ void locate(const T* features, Simplex<C, D, 1>* simplex) const {
    simplex->elevate(dims, features, scales);
    simplex->locate(dims);
  }
};

__device__ inline int64_t index_of_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
// Threads for so many items.
template <class... Parameters, class... Arguments>
void run_for(Queue* queue, int64_t items, void (*kernel)(Parameters...), const Arguments&... arguments) {
  queue->run(blocks_for(items, kThreads), kThreads, kernel, arguments...);
}

DENSECRF_END
