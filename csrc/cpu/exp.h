// exp and tanh of half the argument over contiguous arrays, written so that the compiler vectorises them.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/macros.h"

DENSECRF_BEGIN

// Polynomial for exp(r), |r| <= ln(2) / 2: in float the minimax one of degree 5 with value 1 at 0 (relative
// error 9e-8), in double the Taylor series of degree 13 (remainder 1e-17).
template <class T>
struct ExpTraits;
template <>
struct ExpTraits<float> {
  using Bits = uint32_t;
  static constexpr int kMantissa = 23, kDegree = 5;
  static constexpr float kPolynomial[] = {1.f,          0.999999706f,  0.499991478f,
                                          0.166676381f, 0.0418981597f, 0.00829027212f};
  // ln 2 in two parts: n * kHigh is exact for |n| < 256.
  static constexpr float kRound = 12582912.f, kHigh = 0.693359375f, kLow = -2.12194440e-4f, kLowest = -86.f;
};
template <>
struct ExpTraits<double> {
  using Bits = uint64_t;
  static constexpr int kMantissa = 52, kDegree = 13;
  static constexpr double kPolynomial[] = {
      1.,        1.,         1. / 2,      1. / 6,       1. / 24,       1. / 120,       1. / 720,
      1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800};
  static constexpr double kRound = 6755399441055744.0, kHigh = 0.693145751953125,
                          kLow = 1.42860682030941723212e-6, kLowest = -700.0;
};

// exp(x) for x up to 80; below kLowest, exp(kLowest), which next to a term of 1 is nothing.  exp(x) = 2^n
// exp(r): adding kRound leaves n in the lowest bits, from where it is shifted into the exponent.
template <class T>
[[gnu::always_inline]] inline T exp_bounded(T x) {
  using E = ExpTraits<T>;
  x = x > E::kLowest ? x : E::kLowest;  // NaN, too: the run is refused later
  const T rounded = x * T(1.44269504088896340736) + E::kRound;
  const T n = rounded - E::kRound;
  const T r = (x - n * E::kHigh) - n * E::kLow;
  T sum = E::kPolynomial[E::kDegree];
  for (int k = E::kDegree - 1; k >= 0; --k) sum = sum * r + E::kPolynomial[k];
  typename E::Bits bits, power;
  std::memcpy(&bits, &sum, sizeof(T));
  std::memcpy(&power, &rounded, sizeof(T));
  bits += power << E::kMantissa;
  std::memcpy(&sum, &bits, sizeof(T));
  return sum;
}

template <class T>
inline void exp_array(T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = exp_bounded(x[i]);
}

// tanh(x / 2) = (1 - e) / (1 + e), e = exp(-|x|): the difference of two softmax probabilities whose scores
// differ by x.
template <class T>
inline void tanh_half_array(T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    T e = exp_bounded(x[i] < 0 ? x[i] : -x[i]);
    T t = (1 - e) / (1 + e);
    x[i] = x[i] < 0 ? -t : t;
  }
}

DENSECRF_END
