// Growable array without std:: templates: those would be emitted as shared weak symbols by every SIMD level,
// and the linker keeps only one of them (see core/macros.h).
#pragma once
#include <cstdint>
#include <cstring>

#include "core/arena.h"
#include "cpu/memory.h"

DENSECRF_BEGIN

template <class T>
constexpr T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

// Plain-old-data only.  reserve() and resize() return false when memory runs out.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  bool reserve(int64_t n) {
    if (n <= capacity()) return true;
    const int64_t want = larger(n, capacity() + capacity() / 2);
    const Block grown = allocate(size_t(want) * sizeof(T));
    if (!grown.data) return false;
    if (size_ > 0) std::memcpy(grown.data, block_.data, size_t(size_) * sizeof(T));
    densecrf::release(block_);
    block_ = grown;
    return true;
  }
  bool resize(int64_t n) {
    if (!reserve(n)) return false;
    size_ = n;
    return true;
  }
  void release() {
    densecrf::release(block_);
    block_ = {};
    size_ = 0;
  }
  int64_t size() const { return size_; }
  T* data() { return static_cast<T*>(block_.data); }
  const T* data() const { return static_cast<const T*>(block_.data); }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }

 private:
  int64_t capacity() const { return int64_t(block_.bytes / sizeof(T)); }

  Block block_ = {};
  int64_t size_ = 0;
};

DENSECRF_END
