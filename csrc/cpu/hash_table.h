// Hash table from keys to ids 0, 1, 2, ... in order of first insertion.
//
// A slot is 32 bits: the id and, in the bits that ids do not need, bits of the key's hash, so that few slots
// send a look-up to the wrong key.  The keys lie in order of their ids, where neighbours in the image are
// neighbours in memory.  A key's slots are those of its bucket, or where that is full the next one's (for 2 %
// of the buckets at the highest load): a branch that depends on the keys would be mispredicted, and that
// costs more than the look-up.
#pragma once
#include "core/key.h"
#include "cpu/bucket.h"
#include "cpu/buffer.h"

DENSECRF_BEGIN

// What the table looks at of a key's hash.
template <class K>
inline uint32_t tag_of(K key) {
  return uint32_t(hash(key) >> 32);
}

// Keys that are looked up side by side, and their tags.
template <class K, int MOST>
struct KeyBatch {
  K keys[MOST];
  uint32_t tags[MOST];
  int count = 0;

  // At most MOST times, and then hash(): a loop of its own, which is vectorised, and not part of prefetch(),
  // whose stores gcc 12 dropped where it was called for two batches in turn (-fipa-modref).
  void add(K key, bool wanted = true) {
    keys[count] = key;
    count += int(wanted);
  }
  void hash() {
    for (int i = 0; i < count; ++i) tags[i] = tag_of(keys[i]);
  }
  // key(i) for i < n.
  template <class F>
  void fill(int n, F key) {
    for (int i = 0; i < n; ++i) keys[i] = key(i);
    count = n;
    hash();
  }
};

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

  // Before find_all or insert_all, at best a while before.
  template <int MOST>
  void prefetch(const KeyBatch<K, MOST>& batch) const {
    for (int i = 0; i < batch.count; ++i) __builtin_prefetch(bucket(batch.tags[i]));
  }
  // Ids of the keys, or kNone.
  template <int MOST>
  void find_all(const KeyBatch<K, MOST>& batch, int32_t* ids) const {
    int open[MOST], many = 0;
    for (int i = 0; i < batch.count; ++i) {
      const uint32_t* slots = bucket(batch.tags[i]);
      const unsigned hits = equal_slots(slots, id_mask_, label(batch.tags[i]));
      const uint32_t id = slots[__builtin_ctz(hits | 1u << (kBucket - 1))] & id_mask_;
      const uint32_t found = uint32_t(hits != 0) & uint32_t(keys_[int64_t(id)] == batch.keys[i]);
      ids[i] = int32_t(id | (found - 1));
      open[many] = i;
      many += int((found ^ 1) & uint32_t((hits != 0) | full(slots)));
    }
    for (int i = 0; i < many; ++i) ids[open[i]] = find(batch.keys[open[i]], batch.tags[open[i]]);
  }
  // Ids of the keys, those that are new inserted in their order.  There must be room: call make_room first.
  template <int MOST>
  void insert_all(const KeyBatch<K, MOST>& batch, int32_t* ids) {
    int fresh[MOST], many = 0;
    find_all(batch, ids);
    for (int i = 0; i < batch.count; ++i) {
      fresh[many] = i;
      many += int(ids[i] == kNone);
    }
    for (int i = 0; i < many; ++i) ids[fresh[i]] = insert(batch.keys[fresh[i]], batch.tags[fresh[i]]);
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
  static constexpr uint32_t kEmpty = ~uint32_t(0);

  // The first bits of a tag choose the bucket, the last ones, but for one that only empty slots have, make
  // the label.
  uint32_t place(uint32_t tag) const { return (tag & bucket_mask_) * kBucket; }
  uint32_t label(uint32_t tag) const { return tag & ~id_mask_ & (kEmpty >> 1); }
  const uint32_t* bucket(uint32_t tag) const { return &slots_[int64_t(place(tag))]; }
  uint32_t next(uint32_t place) const { return (place + kBucket) & (bucket_mask_ * kBucket); }
  // Slots are taken from the first on.
  static bool full(const uint32_t* slots) { return slots[kBucket - 1] != kEmpty; }

  int32_t find(K key, uint32_t tag) const {
    for (uint32_t at = place(tag);; at = next(at)) {
      const uint32_t* slots = &slots_[int64_t(at)];
      for (unsigned hits = equal_slots(slots, id_mask_, label(tag)); hits; hits &= hits - 1) {
        const uint32_t id = slots[__builtin_ctz(hits)] & id_mask_;
        if (keys_[int64_t(id)] == key) return int32_t(id);
      }
      if (!full(slots)) return kNone;
    }
  }
  int32_t insert(K key, uint32_t tag) {
    const int32_t found = find(key, tag);
    if (found != kNone) return found;
    keys_[count_] = key;
    put(uint32_t(count_), tag);
    return int32_t(count_++);
  }
  void put(uint32_t id, uint32_t tag) {
    uint32_t at = place(tag);
    while (full(&slots_[int64_t(at)])) at = next(at);
    uint32_t* slots = &slots_[int64_t(at)];
    slots[__builtin_ctz(equal_slots(slots, 0, kEmpty))] = id | label(tag);
  }

  [[gnu::noinline]] bool grow(int64_t wanted) {
    constexpr int kAhead = 16;
    int64_t capacity = slots_.size();
    while (capacity < 2 * wanted) capacity *= 2;
    if (!allocate(capacity)) return false;
    for (int64_t id = 0; id < count_; ++id) {
      if (id + kAhead < count_) __builtin_prefetch(bucket(tag_of(keys_[id + kAhead])));
      put(uint32_t(id), tag_of(keys_[id]));
    }
    return true;
  }
  bool allocate(int64_t capacity) {
    slots_.release();  // empty soon; the keys stay
    if (!slots_.resize(capacity) || !keys_.resize(capacity / 2)) return false;
    for (int64_t i = 0; i < capacity; ++i) slots_[i] = kEmpty;
    id_mask_ = uint32_t(capacity / 2 - 1);
    bucket_mask_ = uint32_t(capacity / kBucket - 1);
    return true;
  }
  Buffer<uint32_t> slots_;
  Buffer<K> keys_;  // room for half as many as there are slots
  uint32_t id_mask_ = 0, bucket_mask_ = 0;
  int64_t count_ = 0;
};

DENSECRF_END
