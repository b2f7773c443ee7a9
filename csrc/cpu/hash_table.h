// Open-addressing hash table from keys to ids 0, 1, 2, ... in order of first insertion.
#pragma once
#include "core/key.h"
#include "cpu/buffer.h"

DENSECRF_BEGIN

template <class K>
class HashTable {
 public:
  static constexpr int32_t kNone = -1;

  bool init(int64_t expected) {
    int64_t capacity = 64;
    while (capacity < 2 * expected) capacity *= 2;
    count_ = 0;
    return allocate(capacity);
  }
  int64_t size() const { return count_; }
  void prefetch(K key) const { __builtin_prefetch(&slots_[int64_t(hash(key) & mask_)]); }

  int32_t find(K key) const {
    for (uint64_t h = hash(key) & mask_;; h = (h + 1) & mask_) {
      const Slot& slot = slots_[int64_t(h)];
      if (slot.id == kNone || slot.key == key) return slot.id;
    }
  }
  // Id of the key, inserted if new.  There must be room: call make_room first.
  int32_t insert(K key) {
    for (uint64_t h = hash(key) & mask_;; h = (h + 1) & mask_) {
      Slot& slot = slots_[int64_t(h)];
      if (slot.id == kNone) {
        slot.key = key;
        slot.id = int32_t(count_++);
        return slot.id;
      }
      if (slot.key == key) return slot.id;
    }
  }
  // Room for n more keys at a load of at most one half.
  bool make_room(int64_t n) {
    if (2 * (count_ + n) <= slots_.size()) return true;
    Buffer<Slot> old;
    old.swap(slots_);
    int64_t capacity = old.size();
    while (capacity < 2 * (count_ + n)) capacity *= 2;
    if (!allocate(capacity)) return false;
    for (int64_t i = 0; i < old.size(); ++i) {
      if (old[i].id == kNone) continue;
      uint64_t h = hash(old[i].key) & mask_;
      while (slots_[int64_t(h)].id != kNone) h = (h + 1) & mask_;
      slots_[int64_t(h)] = old[i];
    }
    return true;
  }
  void release() { slots_.release(); }

 private:
  struct Slot {
    K key;
    int32_t id;
  };
  bool allocate(int64_t capacity) {
    if (!slots_.resize(capacity)) return false;
    for (int64_t i = 0; i < capacity; ++i) slots_[i].id = kNone;
    mask_ = uint64_t(capacity - 1);
    return true;
  }
  Buffer<Slot> slots_;
  uint64_t mask_ = 0;
  int64_t count_ = 0;
};

DENSECRF_END
