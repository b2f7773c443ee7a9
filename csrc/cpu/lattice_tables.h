// What the threads that build a lattice find, and the chains of its vertices.
#pragma once
#include "cpu/chains.h"
#include "cpu/hash_table.h"
#include "cpu/parallel.h"
#include "densecrf.h"

DENSECRF_BEGIN

template <class K>
struct Band {
  HashTable<K> simplices, vertices;  // vertices: the corners of the simplices; band 0 takes in all others'
  HashTable<K> bridges;              // vertices that only the blur passes through, found by the band's thread
  int32_t* simplex_vertices = nullptr;  // [S, d+1] vertex ids of this band's table, in the caller's array
  Buffer<uint8_t> wanted;               // [vertices, d+1] kinds of bridges wanted one step up along each axis
  int64_t first_simplex = 0;            // global id of this band's first simplex
  Status status = Status::kOk;

  Status init(int64_t points) {
    return simplices.init(points / 8) && vertices.init(points / 8) ? Status::kOk : Status::kOutOfMemory;
  }
};

template <class K>
class Tables {
 public:
  int dims = 0, num_bands = 0;
  KeyCode<K> code;
  Band<K>* bands = nullptr;
  int64_t simplices = 0;

  Tables() = default;
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;
  ~Tables() { delete[] bands; }

  // Strings the vertices of every axis into chains, an axis at a time: what it needs stays in the cache.
  Status link(int64_t corners, int threads, int64_t* starts, Block* chains) {
    const int64_t vertices = bands[0].vertices.size();
    *chains = allocate(size_t((dims + 1) * vertices) * sizeof(int32_t), For::kWorkspace);
    if (!chains->data) return Status::kOutOfMemory;
    auto* strung = static_cast<int32_t*>(chains->data);  // [d+1, vertices], most of it in use in the end
    int64_t lengths[kMaxDims + 1];
    Status status[kMaxThreads] = {};
    parallel(smaller(threads, dims + 1), [&](Team& team, int thread) {
      Buffer<int32_t> up;
      Buffer<uint8_t> has_lower;
      ChainWalk walk;
      if (!up.resize(vertices) || !has_lower.resize(vertices + 1) || !walk.init(vertices))
        status[thread] = Status::kOutOfMemory;
      for (int a = thread; a <= dims && status[thread] == Status::kOk; a += team.size()) {
        std::memset(has_lower.data(), 0, size_t(vertices + 1));
        find_upper(code.step[a], up.data(), &has_lower[1]);
        lengths[a] = walk.string(up.data(), &has_lower[1], corners, vertices, strung + a * vertices);
      }
    });
    for (int t = 0; t < smaller(threads, dims + 1); ++t) {
      if (status[t] != Status::kOk) return status[t];
    }
    bands[0].vertices.release();
    starts[0] = 0;
    for (int a = 0; a <= dims; ++a) {
      std::memmove(strung + starts[a], strung + a * vertices, size_t(lengths[a]) * sizeof(int32_t));
      starts[a + 1] = starts[a] + lengths[a];
    }
    return Status::kOk;
  }

 private:
  static constexpr int kTogether = 32;  // vertices whose neighbours are looked up side by side

  // has_lower[-1] takes what is said of vertices that are not there.
  void find_upper(K step, int32_t* up, uint8_t* has_lower) const {
    const HashTable<K>& table = bands[0].vertices;
    const int64_t vertices = table.size();
    KeyBatch<K, kTogether> batches[2];
    const auto load = [&](int64_t first, KeyBatch<K, kTogether>* batch) {
      const int64_t left = larger<int64_t>(0, vertices - first);
      batch->fill(int(smaller<int64_t>(kTogether, left)), [&](int i) { return table.key(first + i) + step; });
      table.prefetch(*batch);
    };
    load(0, &batches[0]);
    int side = 0;
    for (int64_t first = 0; first < vertices; first += kTogether, side ^= 1) {
      load(first + kTogether, &batches[side ^ 1]);
      table.find_all(batches[side], up + first);
      for (int i = 0; i < batches[side].count; ++i) has_lower[up[first + i]] = 1;
    }
  }
};

DENSECRF_END
