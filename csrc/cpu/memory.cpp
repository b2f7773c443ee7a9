#include "cpu/memory.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>

#if defined(__linux__) && !defined(DENSECRF_WATCHED)
#define DENSECRF_MAPS_PAGES
#include <sys/mman.h>
#endif

namespace densecrf {

namespace {

constexpr size_t kHugePage = size_t(2) << 20, kPage = size_t(64) << 10;

#if defined(DENSECRF_MAPS_PAGES)
bool mapped(size_t bytes) { return bytes >= kHugePage; }

// Not by way of malloc, which holds on to what it once gave out: 6 of 144 MB after a lattice was built.  What
// is asked for may be far more than what is written to (see lattice_tables.h).
void* map(size_t bytes) {
  const size_t all = bytes + kHugePage;
  if (all < bytes) return nullptr;
  void* found =
      mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(found);
  const size_t before =
      (kHugePage - (reinterpret_cast<uintptr_t>(begin) & (kHugePage - 1))) & (kHugePage - 1);
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, kHugePage - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}
#else
bool mapped(size_t) { return false; }
#endif

// What is asked of the system for so many bytes: whole pages or cache lines; 0 where that overflows.
size_t rounded(size_t bytes) {
  const size_t unit = mapped(bytes) ? kPage : 64, whole = (bytes + unit - 1) / unit * unit;
  return whole < bytes ? 0 : whole;
}
// Of the system, `bytes` rounded.  No bytes, no data.
Block fresh(size_t bytes) {
  if (bytes == 0) return {nullptr, 0, false};
#if defined(DENSECRF_MAPS_PAGES)
  if (mapped(bytes)) return {map(bytes), bytes, false};
#endif
  return {std::aligned_alloc(64, bytes), bytes, false};
}
void give_back(Block block) {
#if defined(DENSECRF_MAPS_PAGES)
  if (mapped(block.bytes)) {
    if (block.data) munmap(block.data, block.bytes);
    return;
  }
#endif
  std::free(block.data);
}

// Blocks that were given back, the oldest first.
class Kept {
 public:
  // The smallest block of at least `bytes`, but none that is a quarter larger; no data if there is none.
  Block take(size_t bytes) {
    const Turn turn(&busy_);
    const size_t most = bytes + bytes / 4;
    int best = -1;
    for (int i = 0; turn.mine && i < count_; ++i) {
      const size_t found = blocks_[i].bytes;
      if (found >= bytes && found <= most && (best < 0 || found < blocks_[best].bytes)) best = i;
    }
    return best < 0 ? Block{nullptr, 0, false} : remove(best);
  }
  void put(Block block) {
    const Turn turn(&busy_);
    const size_t limit = limit_.load(std::memory_order_relaxed);
    if (!turn.mine) return give_back(block);
    while (bytes_ > limit) drop_oldest();  // told while it was another's turn
    if (block.bytes > limit) return give_back(block);
    while (count_ == kMost || bytes_ + block.bytes > limit) drop_oldest();
    blocks_[count_++] = block;
    bytes_ += block.bytes;
  }
  // Gives back what is no larger than this: all of it, or what was handed out once only.
  void drop_up_to(size_t bytes, bool all) {
    const Turn turn(&busy_);
    for (int i = count_ - 1; turn.mine && i >= 0; --i) {
      if (blocks_[i].bytes <= bytes && (all || !blocks_[i].again)) give_back(remove(i));
    }
  }
  void limit(size_t bytes) {
#if defined(DENSECRF_WATCHED)
    bytes = 0;
#endif
    const Turn turn(&busy_);
    limit_.store(bytes, std::memory_order_relaxed);
    while (turn.mine && bytes_ > bytes) drop_oldest();
  }

 private:
  // Nobody waits for long: who comes in the middle of another's turn soon goes to the system instead, and so
  // does a process that was forked there.
  struct Turn {
    std::atomic_flag* busy;
    bool mine = false;
    explicit Turn(std::atomic_flag* flag) : busy(flag) {
      constexpr int kTries = 1000;
      for (int i = 0; i < kTries && !mine; ++i) mine = !flag->test_and_set(std::memory_order_acquire);
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      if (mine) busy->clear(std::memory_order_release);
    }
  };
  static constexpr int kMost = 256;
#if defined(DENSECRF_WATCHED)
  static constexpr size_t kLimit = 0;
#else
  static constexpr size_t kLimit = size_t(1) << 30;
#endif

  void drop_oldest() { give_back(remove(0)); }
  Block remove(int at) {
    const Block block = blocks_[at];
    bytes_ -= block.bytes;
    --count_;
    for (int i = at; i < count_; ++i) blocks_[i] = blocks_[i + 1];
    return block;
  }

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  std::atomic<size_t> limit_{kLimit};
  Block blocks_[kMost] = {};
  int count_ = 0;
  size_t bytes_ = 0;
};

Kept kept;

// Beside a workspace of so much, nothing smaller is kept.
constexpr size_t kMuch = size_t(16) << 20;

}  // namespace

Block allocate(size_t bytes, For use) {
  bytes = rounded(bytes);
  if (bytes < kWorthKeeping) return fresh(bytes);
  Block block = kept.take(bytes);
  block.again = true;
  if (block.data) return block;
  // What a first call's tables grew out of is not kept beside its workspaces (500 x 375, 2 labels, default
  // setting: 30 MB in all instead of 60); later calls have asked for it again.
  if (use == For::kWorkspace) kept.drop_up_to(bytes, bytes >= kMuch);
  block = fresh(bytes);
  if (!block.data) {
    kept.drop_up_to(SIZE_MAX, true);
    block = fresh(bytes);
  }
  return block;
}

void release(Block block) {
  if (block.bytes < kWorthKeeping || !block.data) return give_back(block);
  kept.put(block);
}

void keep_memory(size_t bytes) { kept.limit(bytes); }

}  // namespace densecrf
