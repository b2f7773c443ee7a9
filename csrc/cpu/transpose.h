// Arrays transposed four by four in registers.
//
// No arithmetic is done here: bit-stable sources use it, too, and the linker keeps one of an inline function.
#pragma once
#include <cstdint>
#include <type_traits>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#include "cpu/rows.h"

DENSECRF_BEGIN

#if defined(__clang__) || __GNUC__ >= 12
#define DENSECRF_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define DENSECRF_SHUFFLE(a, b, i, j, k, l) \
  __builtin_shuffle(a, b, typename Lanes<sizeof(a) / 4>::type{i, j, k, l})
template <size_t BYTES>
struct Lanes {
  typedef int32_t type __attribute__((vector_size(16)));
};
template <>
struct Lanes<8> {
  typedef int64_t type __attribute__((vector_size(32)));
};
#endif

// What happens to a value, or to four, of column `j` on its way into a transposed array: nothing.
struct AsIs {
  template <class X>
  void operator()(X&, int) const {}
};

// Past the caches, which results of their size would only push everything else out of: `to` is aligned.
template <bool STREAM, class T>
inline void store_four(typename Vec<T, 4>::type x, T* to) {
#if defined(__SSE__)
  if constexpr (STREAM && std::is_same_v<T, float>) return _mm_stream_ps(to, x);
#endif
  *reinterpret_cast<typename Vec<T, 4>::loose*>(to) = x;
}

// to[j, i] = from[i, j] as changed by change(value, j), i < rows, j < columns.
template <bool STREAM = false, class T, class F>
inline void transpose(int rows, int columns, const T* from, int64_t from_step, T* to, int64_t to_step,
                      F change) {
  using V = typename Vec<T, 4>::type;
  using Loose = typename Vec<T, 4>::loose;
  int j = 0;
  for (; j + 4 <= columns; j += 4) {
    int i = 0;
    for (; i + 4 <= rows; i += 4) {
      V x[4];
      for (int k = 0; k < 4; ++k) {
        x[k] = *reinterpret_cast<const Loose*>(from + (i + k) * from_step + j);
        change(x[k], j);
      }
      const V a = DENSECRF_SHUFFLE(x[0], x[1], 0, 4, 1, 5), b = DENSECRF_SHUFFLE(x[0], x[1], 2, 6, 3, 7);
      const V c = DENSECRF_SHUFFLE(x[2], x[3], 0, 4, 1, 5), d = DENSECRF_SHUFFLE(x[2], x[3], 2, 6, 3, 7);
      T* out = to + j * to_step + i;
      store_four<STREAM>(DENSECRF_SHUFFLE(a, c, 0, 1, 4, 5), out);
      store_four<STREAM>(DENSECRF_SHUFFLE(a, c, 2, 3, 6, 7), out + to_step);
      store_four<STREAM>(DENSECRF_SHUFFLE(b, d, 0, 1, 4, 5), out + 2 * to_step);
      store_four<STREAM>(DENSECRF_SHUFFLE(b, d, 2, 3, 6, 7), out + 3 * to_step);
    }
    for (; i < rows; ++i) {
      for (int k = j; k < j + 4; ++k) change(to[k * to_step + i] = from[i * from_step + k], k);
    }
  }
  for (; j < columns; ++j) {
    for (int i = 0; i < rows; ++i) change(to[j * to_step + i] = from[i * from_step + j], j);
  }
}
#undef DENSECRF_SHUFFLE

DENSECRF_END
