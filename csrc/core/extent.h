// How far features reach on the lattice: what decides about the arithmetic and the keys of a build.
#pragma once
#include "core/simplex.h"
#include "densecrf.h"

DENSECRF_BEGIN

// Extent of the elevated coordinates over all points, by interval arithmetic on the extent of each feature.
struct Extent {
  double lo[kMaxDims + 1], hi[kMaxDims + 1];
  double reach;  // largest absolute value
};

inline Extent elevated_extent(int d, double scale, const double* lo, const double* hi) {
  Extent out;
  double scales[kMaxDims];
  elevation_scales(d, scale, scales);
  double sum_lo = 0, sum_hi = 0;
  out.reach = 0;
  for (int j = d; j >= 0; --j) {
    const double c_lo = j ? lo[j - 1] * scales[j - 1] : 0, c_hi = j ? hi[j - 1] * scales[j - 1] : 0;
    out.lo[j] = sum_lo - j * c_hi;
    out.hi[j] = sum_hi - j * c_lo;
    out.reach = std::fmax(out.reach, std::fmax(out.hi[j], -out.lo[j]));
    sum_lo += c_lo;
    sum_hi += c_hi;
  }
  return out;
}

// Beyond 2^40 cells not even double arithmetic leaves digits for the barycentric weights; beyond 2^20 float
// does not.
inline Status check_extent(const Extent& extent) {
  return extent.reach < 0x1p40 ? Status::kOk : Status::kRangeTooLarge;
}
template <class T>
bool wants_double(const Extent& extent) {
  return sizeof(T) == sizeof(double) || extent.reach >= 0x1p20;
}

DENSECRF_END
