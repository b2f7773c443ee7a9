// The C++ contract of the engine: plain pointers, sizes and parameter structs, no framework.
//
// Every function comes in float and double, in one table of function pointers per SIMD level (Backend);
// backend() picks the best level that the processor has.  Strides and offsets are in elements.  Workspaces
// belong to the caller: ask for the size, allocate, run. Nothing throws; a Status says what went wrong and
// the caller makes a sentence of it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/memory.h"

namespace densecrf {

constexpr int kMaxDims = 64;  // feature dimensions of a lattice
constexpr int kGridAxes = 3;
constexpr int kMaxThreads = 256;

enum class Status : int {
  kOk = 0,
  kOutOfMemory,
  kNotFinite,        // NaN or infinity in the input
  kRangeTooLarge,    // features span more lattice cells than the arithmetic resolves
  kTooManyVertices,  // vertex or simplex ids do not fit 31 bits
  kInterrupted,      // the caller's checkpoint asked to stop
  kDevice = 1000,    // plus the number of the CUDA runtime's error
};

// ---- lattice
// ---------------------------------------------------------------------------------------------------------------------

// A built permutohedral lattice (Adams et al. 2010) as plain arrays.
template <class T>
struct LatticeView {
  int64_t points;                   // N
  int dims;                         // d
  int64_t simplices;                // S, distinct simplices that hold a point
  int64_t vertices;                 // M
  const int32_t* simplex;           // [N]          simplex of each point
  const T* weights;                 // [N, d+1]     barycentric weights, by vertex remainder
  const int32_t* simplex_vertices;  // [S, d+1]     vertex ids
  const int32_t*
      chains;  // vertices that have neighbours along an axis, in runs of neighbours; the last of a run as ~id
  const int64_t* chain_starts;  // [d+2]        where each axis begins in `chains`, and their total
  T blur;                       // outer weight w of the blur [w, 1, w]
  T alpha;                      // output scale, so that filter() estimates the unnormalised Gaussian sum
};

// An image as the features of its pixels: positions first (last axis first: x, y, z), then channels, each
// over its bandwidth (Kraehenbuehl & Koltun 2011, equation 3).
template <class T>
struct ImageView {
  int64_t size[kGridAxes];     // D, H, W
  int spatial;                 // number of trailing axes that become positions (0 ... 3)
  T spatial_sigma[kGridAxes];  // of x, y, z
  int channels;
  const void* image;  // [D, H, W, channels], uint8 or T
  bool image_is_uint8;
  const T* channel_sigma;  // [channels]
};

template <class T>
struct LatticeRequest {
  const T* features;          // [N, d] already divided by their bandwidths, or null:
  const ImageView<T>* image;  // those of an image's pixels, which are never all in memory
  int64_t points;
  int dims;
  double scale;     // elevated coordinates = scale * (orthonormal embedding of the features)
  bool pad_origin;  // also insert the simplex of the zero feature (what pydensecrf's padding to a multiple of
                    // four does)
  bool bridges;     // also insert bridges: vertices that the blur passes through on its way between corners
  int threads;
  int32_t* simplex;           // output [N]
  T* weights;                 // output [N, d+1]
  int32_t* simplex_vertices;  // output [S, d+1], with room for [N + 1, d+1]
  int64_t* chain_starts;      // output [d+2]
};

struct LatticeResult {
  int64_t simplices = 0, vertices = 0;
  Block chains = {};  // int32, the caller's to release()
};

// ---- spatial Gaussian on a regular grid
// ----------------------------------------------------------------------------------------------

// Pixels are splatted with tent weights onto nodes `spacing` apart, filtered with symmetric taps, and
// interpolated back: an operator that is separable and equal to its transpose.  spacing 1 is the direct
// separable filter.
template <class T>
struct GridView {
  int64_t size[kGridAxes];   // D, H, W (leading axes are 1 for images and lines)
  int spacing[kGridAxes];    // pixels between nodes
  int radius[kGridAxes];     // taps run over offsets -radius ... radius
  const T* taps[kGridAxes];  // [radius + 1], centre first
};

// ---- all pairs
// -------------------------------------------------------------------------------------------------------------------------

// out[:, i] = sum_j exp(-|f_i - f_j|^2 / 2) values[:, j] for the points i of a range
template <class T>
struct ExactRequest {
  const T* features;  // [N, d] already divided by their bandwidths
  int64_t points;
  int dims;
  const T* values;  // [C, N]
  int channels;
  bool self;  // j = i, too
  int64_t begin, end;
  int threads;
  T* out;  // output [C, end - begin]
};

// ---- mean field
// ------------------------------------------------------------------------------------------------------------------------

enum class Weight : int { kScalar, kVector, kMatrix };

// A term of the update z = scores + sum_k E_k K_k Q: the filter K_k with its normalisation, and the coupling
// E = -compatibility * weights, up to a constant over the labels ([x = y] for a Potts model).

template <class T>
struct KernelView {
  const LatticeView<T>* lattice;  // exactly one of lattice and grid is set
  const GridView<T>* grid;
  const T* norm_in;   // [N] factor on Q before the filter, or null
  const T* norm_out;  // [N] factor on the filtered values, or null
  const T* self;      // [N] diagonal of the normalised filter, subtracted from the message, or null
  Weight coupling_kind;
  T coupling;          // kScalar
  const T* couplings;  // [L] kVector, [L, L] kMatrix: E[own label, other label]
};

template <class T>
struct MeanFieldRequest {
  int64_t points;    // N
  int labels;        // L
  const T* unary;    // [L, N]
  T unary_sign;      // logits = unary_sign * unary: +1 for logits, -1 for energies
  const T* initial;  // [L, N] Q to continue from, or null
  const KernelView<T>* kernels;
  int num_kernels;
  bool potts;  // the couplings leave out the constant of a Potts model, which the free energy wants
  int iterations;
  T damping;            // Q <- damping * Q_old + (1 - damping) * Q_new
  T tolerance;          // stop when max |Q_new - Q_old| < tolerance; 0 never stops early
  const uint8_t* mask;  // [N] 0 = the pixel takes no part in the free energy, or null
  bool logits;          // the output is z of the last update, not its softmax; not together with tolerance
  T* output;            // [L, N]; null: only the states are wanted
  T* states;  // output [iterations, mean_field_states] or null: the filtered values of every iteration
  T* kept;    // output [(iterations - 1) / keep_every, L, N] or null: Q after every so many iterations
  int keep_every;
  int64_t kept_step;  // from one kept Q to the next
  // Before the last but one, Q_t is computed for every row_step-th row of row_points points only, in turns,
  // each of which counts for those left out, then for every row_step/2-th one, and the last for all; 0:
  // always for all.  Without damping, tolerance, free energy, self, states and kept.
  int row_step;
  int64_t row_points;
  // What is stored from pass to pass may be so in half precision: Q_0 is in [0, 1], and every kernel is
  // normalised symmetrically (norm_in and norm_out are one array) or "after" (norm_in, if any, is at most 1).
  bool float16;
  double* free_energy;  // output [iterations + 1] or null
  int iterations_done;  // output
  int threads;
  bool (*checkpoint)(void*,
                     int done);  // called between iterations by the calling thread; false stops the run
  void* checkpoint_data;
};

// ---- the table
// -------------------------------------------------------------------------------------------------------------------------

// Gradients of one term, each null where not wanted, added up over the iterations.
template <class T>
struct TermGradient {
  Weight coupling_kind;  // kScalar is asked for as kVector
  T* couplings;          // [L] or [L, L]
  T* weights;            // [N, d+1] of the lattice's barycentric weights
  T* norm_in;            // [N]
  T* norm_out;           // [N]
};

// Backward through a run of mean_field with its unary, initial, kernels (without `self`), iterations (some,
// if there is an initial Q), states and threads; without damping, tolerance and mask.
template <class T>
struct MeanFieldGradRequest {
  const MeanFieldRequest<T>* forward;
  const T* grad;    // [L, N] of the loss with respect to z of the last update
  T* grad_unary;    // output [L, N]
  T* grad_initial;  // output [L, N], with `initial`: with respect to the scores whose softmax that is
  const KernelView<T>*
      probes;           // grid kernels with the derivative of another's taps, whose normalisation is theirs
  const int* probe_of;  // [num_probes] that kernel
  int num_probes;
  T* slopes;  // output [num_probes]: what the loss gains by a unit of the probe, added to its kernel
  const TermGradient<T>* gradients;  // [num_kernels]
};

template <class T>
struct Ops {
  Status (*make_features)(const ImageView<T>&, int threads, T* features);  // features: [N, d]
  Status (*lattice_build)(const LatticeRequest<T>&, LatticeResult*);
  // Gradient [N, d] with respect to the features, from that with respect to the weights.
  Status (*lattice_features_grad)(const LatticeRequest<T>&, const T* grad_weights, T* grad_features);
  // Diagonal of the filter (what a point sends to itself through the lattice), without normalisation.
  Status (*lattice_self)(const LatticeView<T>&, int threads, T* diagonal);
  size_t (*filter_workspace)(const LatticeView<T>&, int channels, int threads);
  // values, out: [C, N]
  Status (*filter)(const LatticeView<T>&, int channels, const T* values, T* out, bool transpose, int threads,
                   void* workspace);
  // out [N] = (K mask)^power, power 1, -1 or -1/2, but 0 where it is negative and nobody is in reach; mask:
  // null for ones.  The workspace is that of filter with one channel.
  Status (*lattice_norm)(const LatticeView<T>&, const T* mask, T power, T* out, int threads, void* workspace);
  // Gradient [N, d+1] of a loss with respect to the barycentric weights, `grad` being that of the filter's
  // out.
  size_t (*filter_weights_grad_workspace)(const LatticeView<T>&, int channels, int threads);
  Status (*filter_weights_grad)(const LatticeView<T>&, int channels, const T* values, const T* grad,
                                T* grad_weights, int threads, void* workspace);
  size_t (*grid_filter_workspace)(const GridView<T>&, int channels, int threads);
  Status (*grid_filter)(const GridView<T>&, int channels, const T* values, T* out, int threads,
                        void* workspace);
  size_t (*exact_filter_workspace)(const ExactRequest<T>&);
  Status (*exact_filter)(const ExactRequest<T>&, void* workspace);
  size_t (*mean_field_workspace)(const MeanFieldRequest<T>&);
  Status (*mean_field)(MeanFieldRequest<T>&, void* workspace);
  int64_t (*mean_field_states)(const MeanFieldRequest<T>&);
  size_t (*mean_field_backward_workspace)(const MeanFieldGradRequest<T>&);
  Status (*mean_field_backward)(const MeanFieldGradRequest<T>&, void* workspace);
};

struct Backend {
  const char* name;  // "baseline", "avx2", "avx512"
  Ops<float> f32;
  Ops<double> f64;
};

// The table for this processor.  DENSECRF_SIMD=baseline|avx2|avx512 in the environment asks for a lower
// level.
const Backend& backend();

}  // namespace densecrf
