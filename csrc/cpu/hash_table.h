// Open-addressing hash table from keys to ids 0, 1, 2, ... in order of first insertion.
//
// A slot is 32 bits: the id and, in the bits that ids do not need, bits of the key's hash, so that few slots
// send a look-up to the wrong key.  The keys lie in order of their ids, where neighbours in the image are
// neighbours in memory.  What counts is how much of this stays in the caches: most look-ups go to a place of
// their own.
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
  static uint32_t tag(K key) { return uint32_t(hash(key) >> 32); }
  void prefetch_tag(uint32_t tag) const { __builtin_prefetch(&slots_[int64_t(tag & mask_)]); }
  void prefetch(K key) const { prefetch_tag(tag(key)); }

  int32_t find(K key) const { return find(key, tag(key)); }
  int32_t find(K key, uint32_t wanted) const {
    for (uint32_t at = wanted & mask_;; at = (at + 1) & mask_) {
      const uint32_t slot = slots_[int64_t(at)];
      if (slot == kEmpty) return kNone;
      if (alike(slot, wanted) && keys_[int64_t(slot & mask_)] == key) return int32_t(slot & mask_);
    }
  }
  // Ids of up to MOST keys with these tags.  Which of them are there is as good as random, and a branch for
  // each would be mispredicted every second time: only keys that their first slot does not settle (a quarter)
  // get one.
  template <int MOST>
  void find_all(const K* keys, const uint32_t* tags, int count, int32_t* ids) const {
    int open[MOST], many = 0;
    for (int i = 0; i < count; ++i) {
      const uint32_t wanted = tags[i], slot = slots_[int64_t(wanted & mask_)];
      const uint32_t taken = slot != kEmpty, likely = taken & uint32_t(alike(slot, wanted));
      const uint32_t id = slot & mask_ & (0 - likely);
      const uint32_t found = likely & uint32_t(keys_[int64_t(id)] == keys[i]);
      ids[i] = int32_t(id | (found - 1));
      open[many] = i;
      many += int(taken ^ found);
    }
    for (int i = 0; i < many; ++i) ids[open[i]] = find(keys[open[i]], tags[open[i]]);
  }
  // Id of the key, inserted if new.  There must be room: call make_room first.
  int32_t insert(K key) {
    const uint32_t wanted = tag(key);
    for (uint32_t at = wanted & mask_;; at = (at + 1) & mask_) {
      const uint32_t slot = slots_[int64_t(at)];
      if (slot == kEmpty) {
        keys_[count_] = key;
        slots_[int64_t(at)] = uint32_t(count_) | (wanted & ~mask_);
        return int32_t(count_++);
      }
      if (alike(slot, wanted) && keys_[int64_t(slot & mask_)] == key) return int32_t(slot & mask_);
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
  static constexpr uint32_t kEmpty = ~uint32_t(0);  // ids are less than half of the mask

  bool alike(uint32_t slot, uint32_t wanted) const { return ((slot ^ wanted) & ~mask_) == 0; }

  [[gnu::noinline]] bool grow(int64_t wanted) {
    constexpr int kAhead = 16;
    int64_t capacity = slots_.size();
    while (capacity < 2 * wanted) capacity *= 2;
    if (!allocate(capacity)) return false;
    for (int64_t id = 0; id < count_; ++id) {
      if (id + kAhead < count_) prefetch(keys_[id + kAhead]);
      const uint32_t wanted_here = tag(keys_[id]);
      uint32_t at = wanted_here & mask_;
      while (slots_[int64_t(at)] != kEmpty) at = (at + 1) & mask_;
      slots_[int64_t(at)] = uint32_t(id) | (wanted_here & ~mask_);
    }
    return true;
  }
  bool allocate(int64_t capacity) {
    slots_.release();  // empty soon; the keys stay
    if (!slots_.resize(capacity) || !keys_.resize(capacity / 2)) return false;
    for (int64_t i = 0; i < capacity; ++i) slots_[i] = kEmpty;
    mask_ = uint32_t(capacity - 1);
    return true;
  }
  Buffer<uint32_t> slots_;
  Buffer<K> keys_;  // room for half as many as there are slots
  uint32_t mask_ = 0;
  int64_t count_ = 0;
};

DENSECRF_END
