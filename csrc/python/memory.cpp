#include "python/memory.h"

#include <atomic>
#include <new>

#include "cpu/memory.h"

namespace densecrf {

namespace {

constexpr size_t kKeepAtFirst = size_t(512) << 20;

// Blocks that were given back, the oldest first.
class Kept {
 public:
  // The smallest block of at least this size, and at most `most`; null if there is none.
  void* take(size_t* bytes, size_t most) {
    const Turn turn(&busy_);
    int best = -1;
    for (int i = 0; turn.mine && i < count_; ++i) {
      const size_t found = blocks_[i].bytes;
      if (found >= *bytes && found <= most && (best < 0 || found < blocks_[best].bytes)) best = i;
    }
    if (best < 0) return nullptr;
    *bytes = blocks_[best].bytes;
    return remove(best);
  }
  void put(void* data, size_t bytes) {
    const Turn turn(&busy_);
    const size_t limit = limit_.load(std::memory_order_relaxed);
#if defined(DENSECRF_WATCHED)
    return release(data, bytes);
#endif
    if (!turn.mine || bytes > limit) return release(data, bytes);
    while (count_ == kMost || bytes_ + bytes > limit) drop_oldest();
    blocks_[count_++] = {data, bytes};
    bytes_ += bytes;
  }
  void drop_all() {
    const Turn turn(&busy_);
    while (turn.mine && count_ > 0) drop_oldest();
  }
  void limit(size_t bytes) {
    const Turn turn(&busy_);
    limit_.store(bytes, std::memory_order_relaxed);
    while (turn.mine && bytes_ > bytes) drop_oldest();
  }

 private:
  // Nobody waits: who comes in the middle of another's turn goes to the system instead, and so does a process
  // that was forked there.
  struct Turn {
    std::atomic_flag* busy;
    bool mine;
    explicit Turn(std::atomic_flag* flag)
        : busy(flag), mine(!flag->test_and_set(std::memory_order_acquire)) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      if (mine) busy->clear(std::memory_order_release);
    }
  };
  struct Block {
    void* data;
    size_t bytes;
  };
  static constexpr int kMost = 64;

  void drop_oldest() {
    const size_t bytes = blocks_[0].bytes;
    release(remove(0), bytes);
  }
  void* remove(int at) {
    void* data = blocks_[at].data;
    bytes_ -= blocks_[at].bytes;
    --count_;
    for (int i = at; i < count_; ++i) blocks_[i] = blocks_[i + 1];
    return data;
  }

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  std::atomic<size_t> limit_{kKeepAtFirst};
  Block blocks_[kMost] = {};
  int count_ = 0;
  size_t bytes_ = 0;
};

Kept kept;

}  // namespace

Memory::Memory(size_t bytes, For use) : data_(nullptr), bytes_(bytes) {
  const size_t most = use == For::kCall ? 4 * bytes : bytes + bytes / 4;
  if (bytes_ >= kWorthKeeping) data_ = kept.take(&bytes_, most);
  if (!data_ && bytes_ > 0) data_ = allocate(bytes_);
  if (!data_ && bytes_ > 0) {
    kept.drop_all();
    data_ = allocate(bytes_);
  }
  if (!data_) throw std::bad_alloc();
}

Memory::~Memory() {
  if (bytes_ >= kWorthKeeping)
    kept.put(data_, bytes_);
  else
    release(data_, bytes_);
}

void Memory::keep(size_t bytes) { kept.limit(bytes); }

}  // namespace densecrf
