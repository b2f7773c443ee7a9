// The contract of the CUDA half: what densecrf.h is to the CPU's.
//
// Pointers are to device memory.  Memory and stream are the caller's; calls only queue work on that stream,
// so nothing that a kernel finds can come back as a Status: what is not finite spreads to the results.
#pragma once
#include "densecrf.h"

struct CUstream_st;

namespace densecrf {
namespace cuda {

using Stream = CUstream_st*;

// ---- lattice

// The lattice of a batch of images, one for all: vertices of different images never meet.  An entry is a pair
// of a point and a corner of its simplex, numbered point * (d+1) + corner; there are B * n * (d+1), which fit
// 31 bits.  Corners of the simplices come first among the vertices, bridges last.
template <class T>
struct Lattice {
  int images;                 // B
  int64_t points;             // n, of each image
  int dims;                   // d
  int64_t vertices;           // M, of all images together
  const T* weights;           // [B, n, d+1] barycentric weights
  const int32_t* corner;      // [B, n, d+1] vertex of each entry
  const int32_t* sorted;      // [B * n * (d+1)] entries by vertex, those of a vertex in their order
  const int32_t* starts;      // [M+1] where each vertex begins in `sorted`
  const int32_t* neighbours;  // [d+1, M, 2] one step down and one step up along each axis, or -1
  T blur, alpha;              // as in LatticeView
};

// values, out: [B, C, n].  The same bits at every run.
template <class T>
size_t filter_workspace(const Lattice<T>& lattice, int channels);
template <class T>
Status filter(const Lattice<T>& lattice, int channels, const T* values, T* out, bool transpose,
              void* workspace, Stream stream);

// ---- spatial Gaussian on a regular grid

// values, out: [B, C, D, H, W].
template <class T>
size_t grid_filter_workspace(const GridView<T>& grid, int images, int channels);
template <class T>
Status grid_filter(const GridView<T>& grid, int images, int channels, const T* values, T* out,
                   void* workspace, Stream stream);

// ---- mean field

// As KernelView, for a batch: the structs are on the host, and so are the arrays of kernels.
template <class T>
struct Kernel {
  const Lattice<T>* lattice;  // exactly one of lattice and grid is set
  const GridView<T>* grid;    // one for all images
  const T* norm_in;           // [B, n] or null
  const T* norm_out;          // [B, n] or null
  Weight coupling_kind;
  T coupling;          // kScalar
  const T* couplings;  // [L] kVector, [L, L] kMatrix
};

// z_{t+1} = logits + sum_k E_k K_k Q_t, Q_t = softmax(z_t), z_0 = logits.
template <class T>
struct MeanField {
  int images;        // B
  int64_t points;    // n, of each image
  int labels;        // L
  const T* logits;   // [B, L, n]
  const T* initial;  // [B, L, n] Q_0 to continue from, or null
  const Kernel<T>* kernels;
  int num_kernels;
  int iterations;
  T* output;  // [B, L, n] z of the last update, or null
  T* states;  // output [iterations, mean_field_states] filtered values of every iteration, aligned to 16
              // bytes, or null
  T* kept;    // output [(iterations - 1) / keep_every, B, L, n] Q after every so many iterations, or null
  int keep_every;
};

template <class T>
int64_t mean_field_states(const MeanField<T>& request);
template <class T>
size_t mean_field_workspace(const MeanField<T>& request);
// The same bits at every run.
template <class T>
Status mean_field(const MeanField<T>& request, void* workspace, Stream stream);

// Backward through a run, from its logits, initial, kernels, iterations (some, if there is an initial Q) and
// states, of which the last iteration's are read only where a gradient inside a filter is wanted: of weights,
// norms or slopes.
template <class T>
struct MeanFieldGrad {
  const MeanField<T>* forward;
  const T* grad;    // [B, L, n] of the loss with respect to z of the last update
  T* grad_logits;   // output [B, L, n]
  T* grad_initial;  // output [B, L, n], with `initial`: with respect to the scores whose softmax that is
  const TermGradient<T>* gradients;  // [num_kernels]: couplings summed over the batch, weights [B, n, d+1],
                                     // norms [B, n]
  const GridView<T>* probes;         // [num_probes] grids of kernels, with the derivative of the taps
  const int* probe_of;               // [num_probes] their kernels
  int num_probes;
  T* slopes;  // output [num_probes]: what the loss gains by a unit of the probe, added to its kernel's filter
};

template <class T>
size_t mean_field_backward_workspace(const MeanFieldGrad<T>& request);
// The same bits at every run.
template <class T>
Status mean_field_backward(const MeanFieldGrad<T>& request, void* workspace, Stream stream);

}  // namespace cuda
}  // namespace densecrf
