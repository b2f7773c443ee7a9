// Vertex keys: linear codes of the first d lattice coordinates (the last one follows, coordinates sum to
// zero).
//
// key(c) = sum_i c_i * unit_i, modulo 2^64 or 2^128.  With unit_i = 2^shift_i and enough bits for each
// coordinate's range the code is exact; where even 128 bits do not hold the ranges, the units are random odd
// numbers and the code is a multilinear fingerprint (Carter & Wegman 1979): two of 10^9 vertices share one
// with probability below 1e-19.  Being linear, either kind steps from vertex to vertex with one addition and
// needs no unpacking.
#pragma once
#include <cstdint>

#include "core/macros.h"
#include "densecrf.h"

DENSECRF_BEGIN

using Key64 = uint64_t;
using Key128 = unsigned __int128;

template <class K>
struct KeyCode {
  K unit[kMaxDims + 1];  // unit[d] = 0: the implied coordinate
  K step[kMaxDims + 1];  // key of the vertex one blur step up along each axis: +1 everywhere, -d on the axis
  K image;               // times the number of the image, added to the keys of its vertices
  K mask;                // the bits that tell the vertices apart
  int bits;              // how many they are
};

DENSECRF_HD uint64_t hash(Key64 k) {
  k ^= k >> 32;
  k *= 0x9e3779b97f4a7c15ull;
  return k ^ (k >> 29);
}
DENSECRF_HD uint64_t hash(Key128 k) {
  return hash(Key64(Key64(k) ^ (Key64(k >> 64) * Key64(0xd6e8feb86659fd93))));
}

// lo, hi: range of each elevated coordinate; images: how many lattices share the keys.  Returns false when K
// cannot hold the ranges exactly (then `fingerprint` decides).
template <class K>
inline bool make_code(int d, const double* lo, const double* hi, int images, bool fingerprint,
                      KeyCode<K>* code) {
  const int width = 8 * int(sizeof(K));
  int shift = 0;
  for (int i = 0; i < d; ++i) {
    // A vertex lies within d+1 of its point, a neighbour within d+1 of the vertex, and a simplex key (r0 -
    // rank) within d of r0.
    double span = hi[i] - lo[i] + 6.0 * (d + 1) + 2;
    int bits = 1;
    while (bits < 62 && double(uint64_t(1) << bits) < span) ++bits;
    code->unit[i] = shift < width ? K(1) << shift : K(0);
    shift += bits;
  }
  code->image = shift < width ? K(1) << shift : K(0);
  for (int64_t most = 1; most < images; most *= 2) ++shift;
  bool exact = shift <= width;
  if (!exact && !fingerprint) return false;
  if (!exact) {
    uint64_t state = 0x243f6a8885a308d3ull;  // splitmix64, seeded with digits of pi
    for (int i = 0; i <= d; ++i) {
      K u = 0;
      for (int part = 0; part < 2; ++part) {
        uint64_t z = (state += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        u = (u << (width / 2)) ^ K(z ^ (z >> 31));
      }
      (i < d ? code->unit[i] : code->image) = u | 1;
    }
  }
  code->bits = exact ? shift : width;
  code->mask = code->bits < width ? (K(1) << code->bits) - 1 : ~K(0);
  code->unit[d] = 0;
  K ones = 0;
  for (int i = 0; i < d; ++i) ones += code->unit[i];
  for (int i = 0; i <= d; ++i) code->step[i] = ones - K(d + 1) * code->unit[i];
  return true;
}

DENSECRF_END
