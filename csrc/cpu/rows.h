// Rows of channels as SIMD vectors, and the slab layout of values on lattice vertices.
//
// A value array over M vertices and C channels is cut into slabs of up to 32 channels: slab after slab, each
// [M, W].  One slab's rows are contiguous, so that a vertex costs one or two cache lines, and one slab can be
// blurred while it stays in cache.  Points hold their channels in one row of `stride` (sum of the widths)
// elements.
#pragma once
#include <type_traits>
#include <utility>

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

// Lower and upper half of a vector.
template <class V, size_t... I>
inline auto half(V x, bool upper, std::index_sequence<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return upper ? __builtin_shufflevector(x, x, (I + sizeof...(I))...) : __builtin_shufflevector(x, x, I...);
#else
  typename Vec<std::decay_t<decltype(x[0])>, sizeof...(I)>::type y;
  std::memcpy(&y, reinterpret_cast<const char*>(&x) + (upper ? sizeof(y) : 0), sizeof(y));
  return y;
#endif
}
// op over all lanes, halves with each other: in registers, where gcc would loop over an array in memory.
template <int W, class V, class F>
inline auto fold_lanes(V x, F op) {
  if constexpr (W == 1) {
    return x;
  } else if constexpr (W == 2) {
    return op(x[0], x[1]);
  } else {
    constexpr std::make_index_sequence<W / 2> kHalf;
    return fold_lanes<W / 2>(op(half(x, false, kHalf), half(x, true, kHalf)), op);
  }
}
template <class T, int W, class F>
inline T fold(const Row<T, W>& row, F op) {
  auto all = row.v[0];
  for (int i = 1; i < Row<T, W>::kVecs; ++i) all = op(all, row.v[i]);
  return fold_lanes<Row<T, W>::kLanes>(all, op);
}
template <class T, int W>
inline T total(const Row<T, W>& row) {
  return fold(row, [](auto a, auto b) { return a + b; });
}
template <class T, int W>
inline T largest(const Row<T, W>& row) {
  return fold(row, [](auto a, auto b) { return a < b ? b : a; });
}

// The cache lines of a row of W.
template <int W, class S>
inline void prefetch_row(const S* row) {
  constexpr int kBytes = W * int(sizeof(S));
  for (int c = 0; c < W; c += 64 / int(sizeof(S))) __builtin_prefetch(row + c);
  if (kBytes % 64 != 0 && 64 % kBytes != 0) __builtin_prefetch(row + W - 1);
}

// Points whose rows are worked on together: enough to hide latencies, few enough for the first-level cache.
constexpr int kChunk = 64;

// While a point's row is read, that of the point a chunk later, row by row: were a chunk's asked for at once,
// what is read next would wait behind it.
template <int W, class S>
inline void prefetch_next(const S* row, int stride) {
  prefetch_row<W>(row + kChunk * stride);
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
