// Arrays in a caller's workspace.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/macros.h"

DENSECRF_BEGIN

// Lays arrays out one after the other, each aligned.  With a null base it only measures.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)), used_(to_next_array(0)) { gap(); }
  template <class T>
  T* take(int64_t n) {
    T* p = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += size_t(n) * sizeof(T);
    gap();
    return p;
  }
  // What to allocate, whatever alignment the allocation has.
  size_t bytes() const { return used_ + kAlign; }

 private:
#if defined(__CUDACC__) || defined(DENSECRF_EMULATED)
  static constexpr size_t kAlign = 256;  // a few sectors
#else
  static constexpr size_t kAlign = 64;  // a cache line
#endif

  size_t to_next_array(size_t used) const {
    return (kAlign - ((reinterpret_cast<uintptr_t>(base_) + used) & (kAlign - 1))) & (kAlign - 1);
  }
  // Under emulation nobody may write between two arrays.
  void gap() {
    size_t bytes = to_next_array(used_);
#ifdef DENSECRF_EMULATED
    bytes += kAlign;
    if (base_) emulation::guard(base_ + used_, bytes);
#endif
    used_ += bytes;
  }

  char* base_;
  size_t used_;
};

DENSECRF_END
