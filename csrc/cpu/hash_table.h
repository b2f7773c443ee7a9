// Open-addressing hash table from keys to ids 0, 1, 2, ... in order of first insertion.
//
// A slot is 32 bits of the key's hash beside the id, half of what the key itself would need, and the keys lie
// in order of their ids, where neighbours in the image are neighbours in memory.
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
  K key(int64_t id) const { return keys_[id]; }
  void prefetch(K key) const { __builtin_prefetch(&slots_[int64_t(tag(key) & mask_)]); }

  int32_t find(K key) const {
    const uint32_t wanted = tag(key);
    for (uint64_t at = wanted & mask_;; at = (at + 1) & mask_) {
      const Slot slot = slots_[int64_t(at)];
      if (slot.id == kNone || (slot.tag == wanted && keys_[slot.id] == key)) return slot.id;
    }
  }
  // Id of the key, inserted if new.  There must be room: call make_room first.
  int32_t insert(K key) {
    const uint32_t wanted = tag(key);
    for (uint64_t at = wanted & mask_;; at = (at + 1) & mask_) {
      Slot& slot = slots_[int64_t(at)];
      if (slot.id == kNone) {
        keys_[count_] = key;
        slot = {wanted, int32_t(count_)};
        return int32_t(count_++);
      }
      if (slot.tag == wanted && keys_[slot.id] == key) return slot.id;
    }
  }
  // Room for n more keys at a load of at most one half.
  bool make_room(int64_t n) {
    const int64_t wanted = count_ + n;
    return 2 * wanted <= slots_.size() || grow(wanted);
  }
  void release() {
    slots_.release();
    keys_.release();
  }

 private:
  struct Slot {
    uint32_t tag;
    int32_t id;
  };
  static uint32_t tag(K key) { return uint32_t(hash(key) >> 32); }
  [[gnu::noinline]] bool grow(int64_t wanted) {
    Buffer<Slot> old;
    old.swap(slots_);
    int64_t capacity = old.size();
    while (capacity < 2 * wanted) capacity *= 2;
    if (!allocate(capacity)) return false;
    for (int64_t i = 0; i < old.size(); ++i) {
      if (old[i].id == kNone) continue;
      uint64_t at = old[i].tag & mask_;
      while (slots_[int64_t(at)].id != kNone) at = (at + 1) & mask_;
      slots_[int64_t(at)] = old[i];
    }
    return true;
  }
  bool allocate(int64_t capacity) {
    if (!slots_.resize(capacity) || !keys_.resize(capacity / 2)) return false;
    for (int64_t i = 0; i < capacity; ++i) slots_[i].id = kNone;
    mask_ = uint64_t(capacity - 1);
    return true;
  }
  Buffer<Slot> slots_;
  Buffer<K> keys_;  // room for half as many as there are slots
  uint64_t mask_ = 0;
  int64_t count_ = 0;
};

DENSECRF_END
