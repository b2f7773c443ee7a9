// Memory of calls and of the arrays that they return.
#pragma once
#include <cstddef>

namespace densecrf {

// Uninitialised.  Large blocks are kept when they are given back, and handed out again: the system clears
// every page that it hands out.
class Memory {
 public:
  static constexpr size_t kWorthKeeping = size_t(8) << 20;

  // A call's memory may be up to four times too large, it will soon be back; a result, which may stay with
  // the user, by a quarter.
  enum class For { kCall, kResult };
  // Throws std::bad_alloc; so it does for 0, the engine's answer where a workspace's size could not be worked
  // out.
  explicit Memory(size_t bytes, For use = For::kCall);
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();
  void* data() const { return data_; }

  // How many bytes to keep at most; 512 MiB unless told.
  static void keep(size_t bytes);

 private:
  void* data_;
  size_t bytes_;
};

}  // namespace densecrf
