// The extent of the features of a build.
#pragma once
#include "core/extent.h"
#include "cpu/buffer.h"
#include "cpu/parallel.h"

DENSECRF_BEGIN

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
  *extent = elevated_extent(request.dims, request.scale, lo, hi);
  return check_extent(*extent);
}

DENSECRF_END
