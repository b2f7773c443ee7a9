// Rows of channels as SIMD vectors, and the slab layout of values on lattice vertices.
//
// A value array over M vertices and C channels is cut into slabs of up to 32 channels: slab after slab, each
// [M, W].  One slab's rows are contiguous, so that a vertex costs one or two cache lines, and one slab can be
// blurred while it stays in cache.  Points hold their channels in one row of `stride` (sum of the widths)
// elements.
#pragma once
#include "cpu/buffer.h"
#include "densecrf.h"

DENSECRF_BEGIN

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// W elements as one vector, and the same for memory that is aligned to elements only.
template <class T, int W>
struct Vec;
template <class T>
struct Vec<T, 1> {
  using type = T;
  using loose = T;
};
#define DENSECRF_VEC(T, W)                                                                       \
  template <>                                                                                    \
  struct Vec<T, W> {                                                                             \
    typedef T type __attribute__((vector_size(W * sizeof(T))));                                  \
    typedef T loose __attribute__((vector_size(W * sizeof(T)), aligned(alignof(T)), may_alias)); \
  };
DENSECRF_VEC(float, 2)
DENSECRF_VEC(float, 4)
DENSECRF_VEC(float, 8)
DENSECRF_VEC(float, 16)
DENSECRF_VEC(double, 2)
DENSECRF_VEC(double, 4)
DENSECRF_VEC(double, 8)
#undef DENSECRF_VEC

// W channels in registers.
template <class T, int W>
struct Row {
  static constexpr int kNative = kVectorBytes / int(sizeof(T));
  static constexpr int kLanes = W < kNative ? W : W % kNative == 0 ? kNative : 8;
  static_assert(W % kLanes == 0, "a row is a whole number of vectors");
  static constexpr int kVecs = W / kLanes;
  using V = typename Vec<T, kLanes>::type;
  using Loose = typename Vec<T, kLanes>::loose;
  V v[kVecs];

  static Row zero() {
    Row r;
    for (int i = 0; i < kVecs; ++i) r.v[i] = V{};
    return r;
  }
  static Row load(const T* p) {
    Row r;
    for (int i = 0; i < kVecs; ++i) r.v[i] = reinterpret_cast<const Loose*>(p)[i];
    return r;
  }
  void store(T* p) const {
    for (int i = 0; i < kVecs; ++i) reinterpret_cast<Loose*>(p)[i] = v[i];
  }
  void add_scaled(T s, const T* p) {
    for (int i = 0; i < kVecs; ++i) v[i] += s * reinterpret_cast<const Loose*>(p)[i];
  }
  void add_scaled(T s, const Row& x) {
    for (int i = 0; i < kVecs; ++i) v[i] += s * x.v[i];
  }
  void scale(T s) {
    for (int i = 0; i < kVecs; ++i) v[i] *= s;
  }
  void multiply(const Row& x) {
    for (int i = 0; i < kVecs; ++i) v[i] *= x.v[i];
  }
  void add(T s) {
    for (int i = 0; i < kVecs; ++i) v[i] += s;
  }
  void take_larger(const Row& x) {
    for (int i = 0; i < kVecs; ++i) v[i] = v[i] < x.v[i] ? x.v[i] : v[i];
  }
};

template <class T, int W>
inline T total(const Row<T, W>& row) {
  constexpr int kLanes = Row<T, W>::kLanes;
  Row<T, kLanes> sum;
  sum.v[0] = row.v[0];
  for (int i = 1; i < Row<T, W>::kVecs; ++i) sum.v[0] += row.v[i];
  T m[kLanes];
  sum.store(m);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) m[i] += m[i + half];
  }
  return m[0];
}

constexpr int kSlab = 32;

// The widths that code is compiled for.
inline int slab_width(int channels) {
  if (channels > 24) return 32;
  if (channels > 16) return 24;
  int width = 1;
  while (width < channels) width *= 2;
  return width;
}

// Calls f with the width as a type: for_width(24, [](auto w) { constexpr int W = decltype(w)::value; ... }).
template <int N>
struct Int {
  static constexpr int value = N;
};
template <class F>
inline void for_width(int width, F&& f) {
  switch (width) {
    case 32:
      return f(Int<32>());
    case 24:
      return f(Int<24>());
    case 16:
      return f(Int<16>());
    case 8:
      return f(Int<8>());
    case 4:
      return f(Int<4>());
    case 2:
      return f(Int<2>());
    default:
      return f(Int<1>());
  }
}

// How C channels are cut into slabs: full ones, and one for the rest.
class SlabPlan {
 public:
  explicit SlabPlan(int channels)
      : slabs_((channels + kSlab - 1) / kSlab),
        last_(channels ? slab_width(channels - (slabs_ - 1) * kSlab) : 0) {}
  int slabs() const { return slabs_; }
  int column(int slab) const { return slab * kSlab; }  // first channel
  int width(int slab) const { return slab == slabs_ - 1 ? last_ : kSlab; }
  int stride() const { return slabs_ ? (slabs_ - 1) * kSlab + last_ : 0; }

 private:
  int slabs_, last_;
};

DENSECRF_END
