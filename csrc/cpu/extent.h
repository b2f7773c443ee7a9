// How far features reach on the lattice: what decides about the arithmetic and the keys of a build.
#pragma once
#include "core/simplex.h"
#include "cpu/buffer.h"
#include "cpu/parallel.h"
#include "densecrf.h"

DENSECRF_BEGIN

// Extent of the elevated coordinates over all points, by interval arithmetic on the extent of each feature.
struct Extent {
  double lo[kMaxDims + 1], hi[kMaxDims + 1];
  double reach;  // largest absolute value
};

inline void elevated_extent(int d, double scale, const double* lo, const double* hi, Extent* out) {
  double scales[kMaxDims];
  elevation_scales(d, scale, scales);
  double sum_lo = 0, sum_hi = 0;
  out->reach = 0;
  for (int j = d; j >= 0; --j) {
    double c_lo = j ? lo[j - 1] * scales[j - 1] : 0, c_hi = j ? hi[j - 1] * scales[j - 1] : 0;
    out->lo[j] = sum_lo - j * c_hi;
    out->hi[j] = sum_hi - j * c_lo;
    out->reach = larger(out->reach, larger(out->hi[j], -out->lo[j]));
    sum_lo += c_lo;
    sum_hi += c_hi;
  }
}

// Smallest and largest value of each feature.
template <class T>
struct FeatureExtent {
  T lo[kMaxDims], hi[kMaxDims];
  bool finite;
};

template <class T>
FeatureExtent<T> extent_of_points(const T* features, int d, Range points) {
  constexpr int kTogether = 8;  // points: enough values for vectors, whatever d
  T low[kTogether * kMaxDims], high[kTogether * kMaxDims], bad[kTogether * kMaxDims];
  const int step = kTogether * d;
  for (int j = 0; j < step; ++j) {
    low[j] = high[j] = features[points.begin * d + j % d];
    bad[j] = 0;
  }
  for (int64_t i = points.begin * d; i < points.end * d; i += step) {
    const T* f = features + i;
    const int count = int(smaller<int64_t>(step, points.end * d - i));
    for (int j = 0; j < count; ++j) {
      low[j] = smaller(low[j], f[j]);
      high[j] = larger(high[j], f[j]);
      bad[j] += f[j] - f[j];  // x - x is 0, or NaN where x is not finite
    }
  }
  FeatureExtent<T> out;
  out.finite = true;
  for (int j = 0; j < step; ++j) {
    out.lo[j % d] = j < d ? low[j] : smaller(out.lo[j % d], low[j]);
    out.hi[j % d] = j < d ? high[j] : larger(out.hi[j % d], high[j]);
    out.finite = out.finite && bad[j] == 0;
  }
  return out;
}

template <class T>
Status feature_extent(const LatticeRequest<T>& request, double* lo, double* hi) {
  Buffer<FeatureExtent<T>> found;
  const int parts = int(smaller<int64_t>(request.threads, request.points));
  if (!found.resize(parts)) return Status::kOutOfMemory;
  int size = 1;
  parallel(parts, [&](Team& team, int thread) {
    if (thread == 0) size = team.size();
    found[thread] =
        extent_of_points(request.features, request.dims, band(request.points, team.size(), thread));
  });
  bool ok = true;
  for (int j = 0; j < request.dims; ++j) lo[j] = hi[j] = request.pad_origin ? 0 : double(request.features[j]);
  for (int i = 0; i < size; ++i) {
    ok = ok && found[i].finite;
    for (int j = 0; j < request.dims; ++j) {
      lo[j] = smaller(lo[j], double(found[i].lo[j]));
      hi[j] = larger(hi[j], double(found[i].hi[j]));
    }
  }
  return ok ? Status::kOk : Status::kNotFinite;
}

template <class T>
Status elevated_extent(const LatticeRequest<T>& request, Extent* extent) {
  double lo[kMaxDims], hi[kMaxDims];
  Status status = feature_extent(request, lo, hi);
  if (status != Status::kOk) return status;
  elevated_extent(request.dims, request.scale, lo, hi, extent);
  // Beyond 2^40 cells not even double arithmetic leaves digits for the barycentric weights; beyond 2^20 float
  // does not.
  return extent->reach < 0x1p40 ? Status::kOk : Status::kRangeTooLarge;
}
template <class T>
bool wants_double(const Extent& extent) {
  return sizeof(T) == sizeof(double) || extent.reach >= 0x1p20;
}

DENSECRF_END
