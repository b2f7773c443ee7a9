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

// What outgrows it costs what moving it costs.
constexpr int64_t kSecondLevelCache = int64_t(1) << 21;

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

template <class T>
constexpr int kNative = kVectorBytes / int(sizeof(T));

// W channels in registers: one vector, or a full one and the rest.
template <class T, int W, bool ONE = W <= kNative<T>>
struct Row {
  using V = typename Vec<T, W>::type;
  using Loose = typename Vec<T, W>::loose;
  V v;

  static Row zero() { return {V{}}; }
  static Row load(const T* p) { return {*reinterpret_cast<const Loose*>(p)}; }
  void store(T* p) const { *reinterpret_cast<Loose*>(p) = v; }
  void add_scaled(T s, const T* p) { v += s * *reinterpret_cast<const Loose*>(p); }
  void add_scaled(T s, const Row& x) { v += s * x.v; }
  void scale(T s) { v *= s; }
  void multiply(const Row& x) { v *= x.v; }
  void add(T s) { v += s; }
  void take_larger(const Row& x) { v = v < x.v ? x.v : v; }
};
template <class T, int W>
struct Row<T, W, false> {
  static constexpr int kHead = kNative<T>;
  using Head = Row<T, kHead>;
  using Tail = Row<T, W - kHead>;
  Head head;
  Tail tail;

  static Row zero() { return {Head::zero(), Tail::zero()}; }
  static Row load(const T* p) { return {Head::load(p), Tail::load(p + kHead)}; }
  void store(T* p) const {
    head.store(p);
    tail.store(p + kHead);
  }
  void add_scaled(T s, const T* p) {
    head.add_scaled(s, p);
    tail.add_scaled(s, p + kHead);
  }
  void add_scaled(T s, const Row& x) {
    head.add_scaled(s, x.head);
    tail.add_scaled(s, x.tail);
  }
  void scale(T s) {
    head.scale(s);
    tail.scale(s);
  }
  void multiply(const Row& x) {
    head.multiply(x.head);
    tail.multiply(x.tail);
  }
  void add(T s) {
    head.add(s);
    tail.add(s);
  }
  void take_larger(const Row& x) {
    head.take_larger(x.head);
    tail.take_larger(x.tail);
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
// op over W lanes, halves with each other, until LEFT are left: in registers, where gcc would loop over an
// array in memory.
template <int W, int LEFT, class V, class F>
inline auto fold_lanes(V x, F op) {
  if constexpr (W == LEFT) {
    return x;
  } else if constexpr (W == 2) {
    return op(x[0], x[1]);
  } else {
    constexpr std::make_index_sequence<W / 2> kHalf;
    return fold_lanes<W / 2, LEFT>(op(half(x, false, kHalf), half(x, true, kHalf)), op);
  }
}
// Lanes of a row's last vector, and op over all vectors in as many.
template <class T, int W>
constexpr int kLast = W <= kNative<T>       ? W
                      : W % kNative<T> == 0 ? kNative<T>
                                            : W % kNative<T>;
template <class T, int W, class F>
inline auto fold_vectors(const Row<T, W>& row, F op) {
  if constexpr (W <= kNative<T>) {
    return row.v;
  } else {
    const auto rest = fold_vectors<T, W - kNative<T>>(row.tail, op);
    return op(fold_lanes<kNative<T>, kLast<T, W>>(row.head.v, op), rest);
  }
}
template <class T, int W, class F>
inline T fold(const Row<T, W>& row, F op) {
  return fold_lanes<kLast<T, W>, 1>(fold_vectors<T, W>(row, op), op);
}
template <class T, int W>
inline T total(const Row<T, W>& row) {
  return fold<T, W>(row, [](auto a, auto b) { return a + b; });
}
template <class T, int W>
inline T largest(const Row<T, W>& row) {
  return fold<T, W>(row, [](auto a, auto b) { return a < b ? b : a; });
}

// The cache lines of a row of W among others.
template <int W, bool WRITTEN = false, class S>
inline void prefetch_row(const S* row) {
  constexpr int kBytes = W * int(sizeof(S));
  for (int c = 0; c < W; c += 64 / int(sizeof(S))) __builtin_prefetch(row + c, WRITTEN);
  if (kBytes < 64 && 64 % kBytes != 0) __builtin_prefetch(row + W - 1, WRITTEN);
}

// Points whose rows are worked on together: enough to hide latencies, few enough for the first-level cache
// (whole calls 2 to 4 % shorter than with 64; 32, 192 and 256 are behind; 2 % longer with 150 labels).
constexpr int kChunk = 128;

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
