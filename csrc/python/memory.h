// Memory of calls and of the arrays that they return.
#pragma once
#include <new>

#include "cpu/memory.h"

namespace densecrf {

// A block of allocate, for as long as this lives.
class Memory {
 public:
  // Throws std::bad_alloc; so it does for 0, the engine's answer where a workspace's size could not be worked
  // out.
  explicit Memory(size_t bytes, For use = For::kWorkspace) : block_(allocate(bytes, use)) {
    if (!block_.data) throw std::bad_alloc();
  }
  explicit Memory(Block block) : block_(block) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { release(block_); }
  void* data() const { return block_.data; }

 private:
  Block block_;
};

}  // namespace densecrf
