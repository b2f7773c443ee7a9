// The enclosing simplex of a point in the permutohedral lattice (Adams, Baek & Davis 2010, section 3.1):
// elevation to the hyperplane sum(x) = 0, nearest remainder-0 point, ranks, barycentric weights.  LANES
// points at a time so that the compiler can vectorise.
#pragma once
#include <cmath>

#include "core/key.h"
#include "core/macros.h"

DENSECRF_BEGIN

template <class C>
struct SameWidthInt;
template <>
struct SameWidthInt<float> {
  using type = int32_t;
};
template <>
struct SameWidthInt<double> {
  using type = int64_t;
};

// Scale of feature i in the elevation: the basis vector has i+1 entries 1 and one entry -(i+1), so its length
// is sqrt((i+1)(i+2)).
template <class C>
DENSECRF_HD void elevation_scales(int d, double scale, C* out) {
  for (int i = 0; i < d; ++i) out[i] = C(1.0 / std::sqrt(double(i + 2) * (i + 1)) * scale);
}

// D: dimensions known at compile time, or 0.  C: arithmetic type.
template <class C, int D, int LANES>
struct Simplex {
  using Int = typename SameWidthInt<C>::type;
  // Adding and subtracting 1.5 * 2^(mantissa bits - 1) rounds to the nearest integer, halves to even, in
  // every SIMD level.
  static constexpr C kRound = sizeof(C) == 4 ? C(12582912.0) : C(6755399441055744.0);
  static constexpr int kCap = (D ? D : kMaxDims) + 1;
  C elevated[kCap][LANES];
  Int rem0[kCap][LANES];  // nearest remainder-0 point
  Int rank[kCap][LANES];  // position of each coordinate in the descending order of the differences
  C weight[kCap][LANES];  // barycentric weight of the vertex with remainder k

  // features: [d, LANES].
  template <class T>
  DENSECRF_HD void elevate(int dims, const T* features, const C* scales) {
    const int d = D ? D : dims;
    C sum[LANES];
    for (int n = 0; n < LANES; ++n) sum[n] = 0;
    for (int j = d; j > 0; --j) {
      for (int n = 0; n < LANES; ++n) {
        C cf = C(features[(j - 1) * LANES + n]) * scales[j - 1];
        elevated[j][n] = sum[n] - C(j) * cf;
        sum[n] += cf;
      }
    }
    for (int n = 0; n < LANES; ++n) elevated[0][n] = sum[n];
  }

  DENSECRF_HD void locate(int dims) {
    const int d = D ? D : dims;
    if (d < 1) return;  // never: lets the compiler see that every array below is written
    const C down = C(1) / C(d + 1);
    C sum[LANES];
    C whole[kCap][LANES];  // remainder-0 coordinates and their differences, in floating point
    C diff[kCap][LANES];
    for (int n = 0; n < LANES; ++n) sum[n] = 0;
    for (int i = 0; i <= d; ++i) {
      for (int n = 0; n < LANES; ++n) {
        C r = (elevated[i][n] * down + kRound) - kRound;
        sum[n] += r;
        whole[i][n] = r * C(d + 1);
        diff[i][n] = elevated[i][n] - whole[i][n];
      }
    }
    for (int i = 0; i <= d; ++i) {
      for (int n = 0; n < LANES; ++n) rank[i][n] = Int(sum[n]);
    }
    for (int i = 0; i < d; ++i) {
      for (int j = i + 1; j <= d; ++j) {
        for (int n = 0; n < LANES; ++n) {
          Int less = diff[i][n] < diff[j][n];
          rank[i][n] += less;
          rank[j][n] += 1 - less;
        }
      }
    }
    // Coordinates that left the hyperplane are the ones whose rank left 0 ... d: bring both back.
    for (int i = 0; i <= d; ++i) {
      for (int n = 0; n < LANES; ++n) {
        Int shift = rank[i][n] < 0 ? Int(d + 1) : rank[i][n] > d ? -Int(d + 1) : Int(0);
        rank[i][n] += shift;
        rem0[i][n] = Int(whole[i][n]) + shift;
        diff[i][n] = (elevated[i][n] - (whole[i][n] + C(shift))) * down;
      }
    }
    // sorted[r]: the difference of rank r, in units of d+1; the weights are its successive differences.
    C sorted[kCap][LANES];
    for (int r = 0; r <= d; ++r) {
      for (int n = 0; n < LANES; ++n) {
        C value = diff[0][n];
        for (int i = 1; i <= d; ++i) value = rank[i][n] == r ? diff[i][n] : value;
        sorted[r][n] = value;
      }
    }
    for (int n = 0; n < LANES; ++n) weight[0][n] = sorted[d][n] + (C(1) - sorted[0][n]);
    for (int k = 1; k <= d; ++k) {
      for (int n = 0; n < LANES; ++n) weight[k][n] = sorted[d - k][n] - sorted[d + 1 - k][n];
    }
  }

  // Gradient with respect to the features of point n from that with respect to its weights, [d+1]; weights
  // are linear in the elevated coordinates while the ranks stay what they are.
  template <class T>
  DENSECRF_HD void features_grad(int dims, int n, const C* scales, const T* grad_weights, T* out) const {
    const int d = D ? D : dims;
    C grad[kCap];  // of the elevated coordinates
    for (int i = 0; i <= d; ++i) {
      const int k = d - int(rank[i][n]);
      grad[i] = (C(grad_weights[k]) - C(grad_weights[k == d ? 0 : k + 1])) / C(d + 1);
    }
    C sum = grad[0];
    for (int j = 1; j <= d; ++j) {
      out[j - 1] = T((sum - C(j) * grad[j]) * scales[j - 1]);
      sum += grad[j];
    }
  }

  // A simplex is known by rem0 - rank, which is its barycentre up to scale and offset.  keys: [LANES].
  template <class K>
  DENSECRF_HD void simplex_keys(int dims, const KeyCode<K>& code, K* keys) const {
    const int d = D ? D : dims;
    for (int n = 0; n < LANES; ++n) keys[n] = 0;
    for (int i = 0; i < d; ++i) {
      for (int n = 0; n < LANES; ++n) keys[n] += K(int64_t(rem0[i][n] - rank[i][n])) * code.unit[i];
    }
  }

  // Keys of the d+1 vertices by remainder: vertex k+1 is one step up from vertex k along axes[k], the
  // coordinate of rank d-k.
  template <class K>
  DENSECRF_HD void vertex_keys(int dims, const KeyCode<K>& code, int n, K* keys, int* axes) const {
    const int d = D ? D : dims;
    K key = 0;
    for (int i = 0; i <= d; ++i) {
      axes[d - rank[i][n]] = i;
      key += K(int64_t(rem0[i][n])) * code.unit[i];
    }
    for (int k = 0; k <= d; ++k) {
      keys[k] = key;
      key += code.step[axes[k]];
    }
  }
};

DENSECRF_END
