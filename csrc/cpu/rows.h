// Rows of channels as SIMD vectors, and the slab layout of values on lattice vertices.
//
// A value array over M vertices and C channels is cut into slabs of 16 channels and one narrower rest: slab after slab, each
// [M, W].  A row of 16 floats is one cache line, and one slab can be blurred while it stays
// in cache.  Points hold their channels in one row of `stride` (sum of the widths) elements.
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
#define DENSECRF_VEC(T, W)                                                                      \
  template <>                                                                                   \
  struct Vec<T, W> {                                                                            \
    typedef T type __attribute__((vector_size(W * sizeof(T))));                                 \
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

// W channels in registers; W = 0 is nothing at all, so that pairs of slabs need no special case.
template <class T, int W>
struct Row {
  static constexpr int kNative = kVectorBytes / int(sizeof(T));
  static constexpr int kLanes = W < kNative ? W : kNative;
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
  void add(T s) {
    for (int i = 0; i < kVecs; ++i) v[i] += s;
  }
  void take_larger(const Row& x) {
    for (int i = 0; i < kVecs; ++i) v[i] = v[i] < x.v[i] ? x.v[i] : v[i];
  }
};
template <class T>
struct Row<T, 0> {
  static Row zero() { return {}; }
  static Row load(const T*) { return {}; }
  void store(T*) const {}
  void add_scaled(T, const T*) {}
  void add_scaled(T, const Row&) {}
  void scale(T) {}
};

// Two neighbouring slabs that are sliced and splatted together, so that a point's vertex ids and weights are read once for up to 32 channels.
struct SlabPair {
  int column;          // first channel
  int width, width2;   // of the two slabs; width2 may be 0
};

constexpr int kSlab = 16;

inline int padded_width(int channels) {
  int w = 1;
  while (w < channels) w *= 2;
  return w;
}

// Widths of the slabs for C channels.
class SlabPlan {
 public:
  explicit SlabPlan(int channels) : channels_(channels) {
    int whole = channels / kSlab, rest = channels % kSlab;
    slabs_ = whole + (rest > 0);
    // Beside a full slab, a rest narrower than 4 is padded to 4: fewer shapes to compile.
    last_ = rest ? padded_width(whole > 0 && rest < 4 ? 4 : rest) : kSlab;
    if (slabs_ == 0) last_ = 0;
  }
  int channels() const { return channels_; }
  int slabs() const { return slabs_; }
  int pairs() const { return (slabs_ + 1) / 2; }
  int width(int slab) const { return slab == slabs_ - 1 ? last_ : kSlab; }
  int stride() const { return slabs_ ? (slabs_ - 1) * kSlab + last_ : 0; }
  SlabPair pair(int i) const {
    int first = 2 * i;
    return {first * kSlab, width(first), first + 1 < slabs_ ? width(first + 1) : 0};
  }

 private:
  int channels_, slabs_, last_;
};

DENSECRF_END
