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

// Says in words what a Status from kDevice on means; cut off where it does not fit.
void describe(Status status, char* text, size_t size);

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
  bool bfloat16 = false;      // values on the vertices have 16 bits; sums of them stay T, which is float
};

// Building one takes three steps.  Between them the caller waits for a few numbers, in all of a build the
// only times that the host has to know what the device found:
//
//   build_extent    what the features span    the caller copies `extent` into `lo` and `hi`
//   build_vertices  what there is             the caller allocates for `found` corners and bridges
//   build_links     how it hangs together
//
// Features that are NaN or infinite, span too much or make too many entries are refused by check_build().
// One range is found for the whole batch, and so decides about its keys and arithmetic.
template <class T>
struct BuildRequest {
  const T* features;  // [B, n, d] already divided by their bandwidths
  int images;
  int64_t points;  // n, of each image
  int dims;
  double scale;     // as in LatticeRequest
  bool pad_origin;  // into every image
  bool bridges;
  T lo[kMaxDims], hi[kMaxDims];  // on the host: least and largest value of each feature
};

// extent: [2, d] least and largest value of each feature, NaN where one is not finite.
template <class T>
size_t build_extent_workspace(const BuildRequest<T>& request);
template <class T>
Status build_extent(const BuildRequest<T>& request, T* extent, void* workspace, Stream stream);

// Host only; everything below wants a request that it finds to be in order.
template <class T>
Status check_build(const BuildRequest<T>& request);

// weights, corner, sorted: as in Lattice.  found: [2] corners and, apart from them, bridges, among which are
// corners of the origin's simplex that no point has.  build_links() wants the workspace as it is left.
template <class T>
size_t build_vertices_workspace(const BuildRequest<T>& request);
template <class T>
Status build_vertices(const BuildRequest<T>& request, T* weights, int32_t* corner, int32_t* sorted,
                      int32_t* found, void* workspace, Stream stream);

// starts, neighbours: as in Lattice, with M = corners + bridges.
template <class T>
Status build_links(const BuildRequest<T>& request, int64_t corners, int64_t bridges, int32_t* starts,
                   int32_t* neighbours, void* workspace, Stream stream);

// Gradient [B, n, d] with respect to the features, from that with respect to the weights.
template <class T>
Status lattice_features_grad(const BuildRequest<T>& request, const T* grad_weights, T* grad_features,
                             Stream stream);

// values, out: [B, C, n].  The same bits at every run.
template <class T>
size_t filter_workspace(const Lattice<T>& lattice, int channels);
template <class T>
Status filter(const Lattice<T>& lattice, int channels, const T* values, T* out, bool transpose,
              void* workspace, Stream stream);

// Gradient [B, n, d+1] of a loss with respect to the barycentric weights, `grad` being that of the filter's
// out.
template <class T>
size_t filter_weights_grad_workspace(const Lattice<T>& lattice, int channels);
template <class T>
Status filter_weights_grad(const Lattice<T>& lattice, int channels, const T* values, const T* grad,
                           T* grad_weights, void* workspace, Stream stream);

// ---- features of images

template <class T>
struct ImageFeatures {
  int images;               // B
  int64_t size[kGridAxes];  // D, H, W
  int spatial;              // number of trailing axes that become positions (0 ... 3)
  int channels;             // C
  const T* image;           // [B, C, D, H, W]
  const T* sigma;           // [spatial] of those axes in their order
  const T* channel_sigma;   // [C]
};

// features: [B, n, spatial + C] positions, last axis first, then channels, over their bandwidths.
template <class T>
Status image_features(const ImageFeatures<T>& request, T* features, Stream stream);

// Gradients with respect to the image (or null), sigma and channel_sigma, from those, `grad`, of the
// features.
template <class T>
size_t image_features_grad_workspace(const ImageFeatures<T>& request);
template <class T>
Status image_features_grad(const ImageFeatures<T>& request, const T* features, const T* grad, T* grad_image,
                           T* grad_sigma, T* grad_channel_sigma, void* workspace, Stream stream);

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
