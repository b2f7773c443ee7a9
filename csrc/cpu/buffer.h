// Growable array without std:: templates: those would be emitted as shared weak symbols by every SIMD level,
// and the linker keeps only one of them (see core/macros.h).
#pragma once
#include <cstdint>
#include <cstring>

#include "core/arena.h"
#include "cpu/memory.h"

DENSECRF_BEGIN

template <class T>
inline T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
inline T larger(T a, T b) {
  return a < b ? b : a;
}

// Plain-old-data only.  grow() returns false when memory runs out.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  bool reserve(int64_t n) {
    if (n <= capacity_) return true;
    int64_t want = larger(n, capacity_ + capacity_ / 2);
    T* grown = static_cast<T*>(allocate(size_t(want) * sizeof(T)));
    if (!grown) return false;
    if (size_ > 0) std::memcpy(static_cast<void*>(grown), data_, size_t(size_) * sizeof(T));
    densecrf::release(data_, size_t(capacity_) * sizeof(T));
    data_ = grown;
    capacity_ = want;
    return true;
  }
  bool resize(int64_t n) {
    if (!reserve(n)) return false;
    size_ = n;
    return true;
  }
  void release() {
    densecrf::release(data_, size_t(capacity_) * sizeof(T));
    data_ = nullptr;
    size_ = capacity_ = 0;
  }
  void swap(Buffer& other) {
    T* d = data_;
    data_ = other.data_;
    other.data_ = d;
    int64_t s = size_, c = capacity_;
    size_ = other.size_;
    capacity_ = other.capacity_;
    other.size_ = s;
    other.capacity_ = c;
  }
  int64_t size() const { return size_; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0, capacity_ = 0;
};

DENSECRF_END
