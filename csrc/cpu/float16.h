// Half precision as a way to store rows of floats: F16C converts eight at a time, sums stay float.
#pragma once
#include <type_traits>

#include "cpu/rows.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

DENSECRF_BEGIN

struct Float16 {
  uint16_t bits;
};

#if defined(__F16C__)
constexpr bool kHasFloat16 = true;

inline void widen(const Float16* p, float* x) { *x = _cvtsh_ss(p->bits); }
inline void narrow(float x, Float16* p) { p->bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
inline void widen(const Float16* p, Vec<float, 8>::type* x) {
  *x = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void narrow(Vec<float, 8>::type x, Float16* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
#if defined(__AVX512F__)
inline void widen(const Float16* p, Vec<float, 16>::type* x) {
  *x = _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void narrow(Vec<float, 16>::type x, Float16* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT));
}
#endif
template <class V>
inline void widen(const Float16* p, V* x) {
  for (int i = 0; i < int(sizeof(V) / sizeof(float)); ++i) (*x)[i] = _cvtsh_ss(p[i].bits);
}
template <class V>
inline void narrow(V x, Float16* p) {
  for (int i = 0; i < int(sizeof(V) / sizeof(float)); ++i) narrow(x[i], p + i);
}
#else
constexpr bool kHasFloat16 = false;
#endif

template <class T>
constexpr bool kHalves = kHasFloat16 && std::is_same_v<T, float>;

// To move values takes half as long in half precision; of short rows it is not faster.
template <class T>
inline bool better_in_float16(int64_t values, int row) {
  return kHalves<T> && row >= 8 && values * int64_t(sizeof(T)) > kSecondLevelCache;
}

// Rows of T in memory as S: T itself or, of floats, Float16.
template <class T, int W, class S>
inline Row<T, W> load_row(const S* p) {
  if constexpr (std::is_same_v<S, T>) {
    return Row<T, W>::load(p);
  } else if constexpr (W <= kNative<T>) {
    Row<T, W> row;
    widen(p, &row.v);
    return row;
  } else {
    return {load_row<T, kNative<T>>(p), load_row<T, W - kNative<T>>(p + kNative<T>)};
  }
}
template <class T, int W, class S>
inline void store_row(const Row<T, W>& row, S* p) {
  if constexpr (std::is_same_v<S, T>) {
    row.store(p);
  } else if constexpr (W <= kNative<T>) {
    narrow(row.v, p);
  } else {
    store_row<T, kNative<T>>(row.head, p);
    store_row<T, W - kNative<T>>(row.tail, p + kNative<T>);
  }
}

// The rows that a slice into `out` adds to: those of `in`, or zeros where that is null.
template <class T, int W, class S>
class SliceOnto {
 public:
  SliceOnto(const S* in, int column, int stride, const T* out)
      : in_(in ? in + column : nullptr), stride_(stride), ahead_(static_cast<const void*>(in) != out) {}
  // Unless they are the ones that the slice writes, or many to a cache line, the row of the point a chunk
  // later is asked for: were a chunk's rows asked for at once, what is read next would wait behind them.
  Row<T, W> row(int p) const {
    if (!in_) return Row<T, W>::zero();
    const S* row = in_ + int64_t(p) * stride_;
    if (kLong && ahead_) prefetch_row<W>(row + kChunk * stride_);
    return load_row<T, W>(row);
  }

 private:
  static constexpr bool kLong = W * sizeof(S) >= 32;

  const S* in_;
  int stride_;
  bool ahead_;
};

DENSECRF_END
