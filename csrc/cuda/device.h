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

}  // namespace cuda
}  // namespace densecrf
