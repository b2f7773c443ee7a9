// exp and tanh of half the argument over contiguous arrays, written so that the compiler vectorises them.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/macros.h"

DENSECRF_BEGIN

template <class T>
struct ExpTraits;
template <>
struct ExpTraits<float> {
  using Int = int32_t;
  static constexpr int kMantissa = 23, kBias = 127, kTerms = 6;
  // ln 2 in two parts: n * kHigh is exact for |n| < 256.
  static constexpr float kInverseFactorials[] = {1.f,      1.f,       1.f / 2,   1.f / 6,
                                                 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040};
  static constexpr float kRound = 12582912.f, kHigh = 0.693359375f, kLow = -2.12194440e-4f, kLowest = -80.f;
};
template <>
struct ExpTraits<double> {
  using Int = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kTerms = 13;
  static constexpr double kInverseFactorials[] = {
      1.,        1.,         1. / 2,      1. / 6,       1. / 24,       1. / 120,       1. / 720,
      1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
  static constexpr double kRound = 6755399441055744.0, kHigh = 0.693145751953125,
                          kLow = 1.42860682030941723212e-6, kLowest = -700.0;
};

// exp(x) for x <= 0 (0 below kLowest).  exp(x) = 2^n exp(r), |r| <= ln(2)/2, by the Taylor series of kTerms
// terms: the remainder is below 1.2e-7 (two units of the last place) in float and 1e-17 in double.
template <class T>
inline T exp_nonpositive(T x) {
  using E = ExpTraits<T>;
  T clamped = x > E::kLowest ? x : E::kLowest;  // NaN, too: the run is refused later
  T n = (clamped * T(1.44269504088896340736) + E::kRound) - E::kRound;
  T r = (clamped - n * E::kHigh) - n * E::kLow;
  T sum = E::kInverseFactorials[E::kTerms];
  for (int k = E::kTerms - 1; k >= 0; --k) sum = sum * r + E::kInverseFactorials[k];
  typename E::Int bits = (typename E::Int(n) + E::kBias) << E::kMantissa;
  T power;
  std::memcpy(&power, &bits, sizeof(T));
  return x > E::kLowest ? sum * power : T(0);
}

template <class T>
inline void exp_array(T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = exp_nonpositive(x[i]);
}

// tanh(x / 2) = (1 - e) / (1 + e), e = exp(-|x|): the difference of two softmax probabilities whose scores
// differ by x.
template <class T>
inline void tanh_half_array(T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    T e = exp_nonpositive(x[i] < 0 ? x[i] : -x[i]);
    T t = (1 - e) / (1 + e);
    x[i] = x[i] < 0 ? -t : t;
  }
}

DENSECRF_END
