// A bucket of a hash table: eight slots of 32 bits, aligned, that are compared side by side.
#pragma once
#include <cstdint>

#include "core/macros.h"
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

DENSECRF_BEGIN

constexpr int kBucket = 8;

// Bit i: whether slot i, without the bits of `ignored`, is `wanted`.
#if defined(__AVX2__)
inline unsigned equal_slots(const uint32_t* bucket, uint32_t ignored, uint32_t wanted) {
  const __m256i slots = _mm256_load_si256(reinterpret_cast<const __m256i*>(bucket));
  const __m256i left = _mm256_andnot_si256(_mm256_set1_epi32(int(ignored)), slots);
  const __m256i equal = _mm256_cmpeq_epi32(left, _mm256_set1_epi32(int(wanted)));
  return unsigned(_mm256_movemask_ps(_mm256_castsi256_ps(equal)));
}
#elif defined(__SSE2__)
inline unsigned equal_slots(const uint32_t* bucket, uint32_t ignored, uint32_t wanted) {
  unsigned bits = 0;
  for (int i = 0; i < kBucket; i += 4) {
    const __m128i slots = _mm_load_si128(reinterpret_cast<const __m128i*>(bucket + i));
    const __m128i left = _mm_andnot_si128(_mm_set1_epi32(int(ignored)), slots);
    const __m128i equal = _mm_cmpeq_epi32(left, _mm_set1_epi32(int(wanted)));
    bits |= unsigned(_mm_movemask_ps(_mm_castsi128_ps(equal))) << i;
  }
  return bits;
}
#else
inline unsigned equal_slots(const uint32_t* bucket, uint32_t ignored, uint32_t wanted) {
  unsigned bits = 0;
  for (int i = 0; i < kBucket; ++i) bits |= unsigned((bucket[i] & ~ignored) == wanted) << i;
  return bits;
}
#endif

DENSECRF_END
