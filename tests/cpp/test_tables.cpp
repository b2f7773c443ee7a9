// The tables of the lattice's build: keys to ids in hash tables, vertices strung into chains.
#include <algorithm>
#include <random>
#include <vector>

#include "cpu/chains.h"
#include "cpu/hash_table.h"
#include "support.h"

namespace {

using namespace densecrf::DENSECRF_ISA;

constexpr int kMost = 32;

// ---- hash table

// The next keys from *from on whose tags lie in `bucket` of a table of `buckets`.
template <class K>
std::vector<K> keys_of_bucket(uint32_t bucket, uint32_t buckets, int count, K* from) {
  std::vector<K> keys;
  for (; int(keys.size()) < count; ++*from) {
    if (tag_of(*from) % buckets == bucket) keys.push_back(*from);
  }
  return keys;
}

template <class K>
std::vector<int32_t> looked_up(const HashTable<K>& table, const std::vector<K>& keys) {
  std::vector<int32_t> ids(keys.size());
  for (size_t first = 0; first < keys.size(); first += kMost) {
    KeyBatch<K, kMost> batch;
    batch.fill(int(smaller<size_t>(kMost, keys.size() - first)), [&](int i) { return keys[first + i]; });
    table.prefetch(batch);
    table.find_all(batch, &ids[first]);
  }
  return ids;
}
template <class K>
std::vector<int32_t> inserted(HashTable<K>* table, const std::vector<K>& keys) {
  std::vector<int32_t> ids(keys.size());
  for (size_t first = 0; first < keys.size(); first += kMost) {
    KeyBatch<K, kMost> batch;
    for (size_t i = first; i < smaller(first + kMost, keys.size()); ++i) batch.add(keys[i]);
    batch.hash();
    CHECK(table->make_room(batch.count));
    table->insert_all(batch, &ids[first]);
  }
  return ids;
}

template <class K>
void check_ids(const HashTable<K>& table, const std::vector<K>& keys, const std::vector<int32_t>& ids) {
  for (size_t i = 0; i < keys.size(); ++i) {
    CHECK(ids[i] >= 0 && ids[i] < table.size());
    CHECK(table.key(ids[i]) == keys[i]);
  }
  CHECK(looked_up(table, keys) == ids);
}

// Ids count up in order of first insertion, whatever repeats, within a batch or later.
template <class K>
void test_repeated_keys() {
  HashTable<K> table;
  CHECK(table.init(0));
  const std::vector<K> keys = {7, 9, 7, 7, 0, 9, ~K(0), 0, 5};
  CHECK(inserted(&table, keys) == (std::vector<int32_t>{0, 1, 0, 0, 2, 1, 3, 2, 4}));
  CHECK(inserted(&table, {5, 11, 7}) == (std::vector<int32_t>{4, 5, 0}));
  CHECK(looked_up(table, {11, 12, 0}) == (std::vector<int32_t>{5, -1, 2}));
  CHECK(table.size() == 6);
}

// Keys that add() is told not to want are not there.
void test_unwanted_keys() {
  KeyBatch<Key64, kMost> batch;
  for (int i = 0; i < 10; ++i) batch.add(Key64(i), i % 3 == 0);
  batch.hash();
  CHECK(batch.count == 4);
  for (int i = 0; i < batch.count; ++i)
    CHECK(batch.keys[i] == Key64(3 * i) && batch.tags[i] == tag_of(Key64(3 * i)));
}

// Three buckets' worth of keys in one bucket: the last one, so that they go on in the first ones.
template <class K>
void test_overflowing_bucket() {
  HashTable<K> table;
  CHECK(table.init(32));  // 64 slots, in eight buckets
  K next = 1;
  const std::vector<K> first = keys_of_bucket<K>(0, 8, 4, &next), last = keys_of_bucket<K>(7, 8, 24, &next);
  const std::vector<K> absent = keys_of_bucket<K>(7, 8, 40, &next),
                       beside = keys_of_bucket<K>(1, 8, 4, &next);
  const std::vector<int32_t> first_ids = inserted(&table, first), last_ids = inserted(&table, last);
  const std::vector<int32_t> beside_ids = inserted(&table, beside);
  CHECK(table.size() == 32);
  check_ids(table, first, first_ids);
  check_ids(table, last, last_ids);
  check_ids(table, beside, beside_ids);
  CHECK(looked_up(table, absent) == std::vector<int32_t>(40, -1));
}

// Many keys, the table growing as they come; close ones, as of neighbouring vertices, and far ones.
template <class K>
void test_growing_table() {
  std::mt19937_64 rng(1);
  std::vector<K> keys, absent;
  for (int i = 0; i < 50'000; ++i) {
    keys.push_back(K(1000 + 2 * (rng() % 40'000)));
    keys.push_back(K(rng()) << (8 * sizeof(K) - 64));
    absent.push_back(keys[keys.size() - 2] + 1);
  }
  HashTable<K> table;
  CHECK(table.init(0));
  const std::vector<int32_t> ids = inserted(&table, keys);
  check_ids(table, keys, ids);
  int32_t most = -1;  // first touches count up
  for (int32_t id : ids) {
    CHECK(id <= most + 1);
    most = larger(most, id);
  }
  CHECK(most + 1 == table.size());
  CHECK(looked_up(table, absent) == std::vector<int32_t>(absent.size(), -1));
}

template <class K>
void test_hash_table() {
  test_repeated_keys<K>();
  test_overflowing_bucket<K>();
  test_growing_table<K>();
}

// ---- chains

// The chains one after the other, by the definition.
std::vector<int32_t> strung(const std::vector<int32_t>& up, const std::vector<uint8_t>& has_lower) {
  std::vector<int32_t> chains;
  for (size_t v = 0; v < up.size(); ++v) {
    if (has_lower[v] || up[v] < 0) continue;
    int32_t at = int32_t(v);
    for (; up[at] >= 0; at = up[at]) chains.push_back(at);
    chains.push_back(~at);
  }
  return chains;
}

// The same, each chain by itself and in the order of their numbers.
std::vector<std::vector<int32_t>> sorted_chains(const std::vector<int32_t>& chains) {
  std::vector<std::vector<int32_t>> found(1);
  for (int32_t id : chains) {
    found.back().push_back(id);
    if (id < 0) found.emplace_back();
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Whether chains begin where those before them do, in the image, or further on.
bool in_order_of_the_image(const std::vector<int32_t>& chains, int64_t corners, int64_t vertices) {
  double last = 0;
  bool first = true, ordered = true;
  for (int32_t id : chains) {
    const double where = id < corners ? double(id + 1) / double(corners)
                                      : double(id + 1 - corners) / double(vertices - corners);
    if (first) {
      ordered = ordered && where > last - 1.0 / 32;
      last = std::max(last, where);
    }
    first = id < 0;
  }
  return ordered;
}

// Chains of these lengths through vertices in random order.
void check_chains(const std::vector<int>& lengths) {
  int64_t vertices = 0;
  for (int length : lengths) vertices += length;
  std::vector<int32_t> order(static_cast<size_t>(vertices)), up(order.size(), -1), chains(order.size());
  std::vector<uint8_t> has_lower(order.size(), 0);
  for (size_t v = 0; v < order.size(); ++v) order[v] = int32_t(v);
  std::shuffle(order.begin(), order.end(), std::mt19937(unsigned(vertices)));
  size_t at = 0;
  for (int length : lengths) {
    for (size_t end = at + size_t(length) - 1; at < end; ++at) {
      up[order[at]] = order[at + 1];
      has_lower[order[at + 1]] = 1;
    }
    ++at;
  }
  ChainWalk walk;
  CHECK(walk.init(vertices));
  for (int times = 0; times < 2; ++times) {  // one walk serves axis after axis
    const int64_t length = walk.string(up.data(), has_lower.data(), vertices, vertices, chains.data());
    CHECK(std::vector<int32_t>(chains.begin(), chains.begin() + length) == strung(up, has_lower));
  }
  for (int64_t corners : {int64_t(0), vertices / 3, vertices - 1}) {
    const int64_t length = walk.string(up.data(), has_lower.data(), corners, vertices, chains.data());
    const std::vector<int32_t> found(chains.begin(), chains.begin() + length);
    CHECK(sorted_chains(found) == sorted_chains(strung(up, has_lower)));
    CHECK(in_order_of_the_image(found, corners, vertices));
  }
}

void test_chains() {
  check_chains({1});
  check_chains({2});
  check_chains({1, 1, 1, 1, 1});
  check_chains({5, 3});             // fewer chains than are walked at a time
  check_chains({2, 1, 700, 2, 3});  // one that goes on when all others have ended
  check_chains({400, 2, 2, 2, 2, 2, 2, 2});
  std::mt19937 rng(2);
  for (int chains = 4; chains <= 5000; chains *= 3) {
    std::vector<int> lengths(static_cast<size_t>(chains));
    for (int& length : lengths) length = 1 + int(rng() % 9);
    check_chains(lengths);
  }
}

}  // namespace

int main() {
  test_hash_table<Key64>();
  test_hash_table<Key128>();
  test_unwanted_keys();
  test_chains();
  return report("test_tables");
}
