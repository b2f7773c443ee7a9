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

// The lattices of a batch of images of one size, their arrays (see LatticeView) one after the other.  Every
// number counts within its image; `before` says what the images before an image have.
template <class T>
struct LatticeBatch {
  int images;                       // B
  int64_t points;                   // n, of each image
  int dims;                         // d
  int64_t vertices;                 // M, of all images together
  const int32_t* simplex;           // [B, n]
  const T* weights;                 // [B, n, d+1]
  const int32_t* simplex_vertices;  // [S, d+1]
  const int32_t* chains;
  const int64_t* chain_starts;  // [B, d+2]
  const int64_t* before;        // [B, 3] simplices, vertices and entries of `chains`
  T blur, alpha;
};

// Tables of a lattice that the filter wants beside it, made once.  They stay in `memory`, which needs as many
// bytes as filter_tables_bytes() says; the workspace is free again once the stream has done the work.
// kTooManyVertices: points * (d+1) of the batch do not fit 31 bits.
template <class T>
size_t filter_tables_bytes(const LatticeBatch<T>& lattice);
template <class T>
size_t filter_tables_workspace(const LatticeBatch<T>& lattice);
template <class T>
Status make_filter_tables(const LatticeBatch<T>& lattice, void* memory, void* workspace, Stream stream);

// values, out: [B, C, n].  The same bits at every run.
template <class T>
size_t filter_workspace(const LatticeBatch<T>& lattice, int channels);
template <class T>
Status filter(const LatticeBatch<T>& lattice, void* tables, int channels, const T* values, T* out,
              bool transpose, void* workspace, Stream stream);

// ---- spatial Gaussian on a regular grid

// values, out: [B, C, D, H, W].
template <class T>
size_t grid_filter_workspace(const GridView<T>& grid, int images, int channels);
template <class T>
Status grid_filter(const GridView<T>& grid, int images, int channels, const T* values, T* out,
                   void* workspace, Stream stream);

}  // namespace cuda
}  // namespace densecrf
