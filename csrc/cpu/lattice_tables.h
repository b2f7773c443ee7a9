// What the build of a lattice finds, as long as only the build knows its size; and the chains of its
// vertices.
#pragma once
#include "cpu/chains.h"
#include "cpu/hash_table.h"
#include "cpu/parallel.h"
#include "densecrf.h"

DENSECRF_BEGIN

// What LatticeTables points to.
class AnyTables {
 public:
  virtual ~AnyTables() = default;
  virtual LatticeSizes sizes() const = 0;
  virtual void fill(int threads, int32_t* simplex_vertices, int32_t* chains, int64_t* chain_starts) const = 0;
};
inline LatticeTables* hide(AnyTables* tables) { return reinterpret_cast<LatticeTables*>(tables); }
inline const AnyTables* reveal(const LatticeTables* tables) {
  return reinterpret_cast<const AnyTables*>(tables);
}

template <class K>
struct Band {
  HashTable<K> simplices, vertices;  // vertices: the corners of the simplices; band 0 takes in all others'
  HashTable<K> bridges;              // vertices that only the blur passes through, found by the band's thread
  Buffer<int32_t> simplex_vertices;  // [S, d+1] vertex ids, of this band's table until the merge
  Buffer<uint8_t> wanted;            // [vertices, d+1] kinds of bridges wanted one step up along each axis
  int64_t first_simplex = 0;         // global id of this band's first simplex
  Status status = Status::kOk;

  Status init(int64_t points) {
    return simplices.init(points / 8) && vertices.init(points / 8) ? Status::kOk : Status::kOutOfMemory;
  }
};

template <class K>
class Tables final : public AnyTables {
 public:
  int dims = 0, num_bands = 0;
  KeyCode<K> code;
  Band<K>* bands = nullptr;
  int64_t simplices = 0, vertices = 0;

  ~Tables() override { delete[] bands; }
  LatticeSizes sizes() const override {
    int64_t chained = 0;
    for (int a = 0; a <= dims; ++a) chained += chains[a].size();
    return {simplices, vertices, chained};
  }

  // Strings the vertices of every axis into chains, an axis at a time: what it needs stays in the cache.
  Status link(int threads) {
    vertices = bands[0].vertices.size();
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
        if (!walk.string(up.data(), &has_lower[1], vertices, &chains[a]))
          status[thread] = Status::kOutOfMemory;
      }
    });
    for (int t = 0; t < smaller(threads, dims + 1); ++t) {
      if (status[t] != Status::kOk) return status[t];
    }
    bands[0].vertices.release();
    return Status::kOk;
  }

  void fill(int threads, int32_t* simplex_vertices, int32_t* chains_out, int64_t* starts) const override {
    starts[0] = 0;
    for (int a = 0; a <= dims; ++a) starts[a + 1] = starts[a] + chains[a].size();
    parallel(threads, [&](Team& team, int thread) {
      fill_simplices(band(simplices, team.size(), thread), simplex_vertices);
      for (int a = thread; a <= dims; a += team.size()) {
        std::memcpy(chains_out + starts[a], chains[a].data(), size_t(chains[a].size()) * sizeof(int32_t));
      }
    });
  }

 private:
  static constexpr int kTogether = 32;  // vertices whose neighbours are looked up side by side

  void fill_simplices(Range range, int32_t* out) const {
    const int64_t corners = dims + 1;
    for (int b = 0; b < num_bands; ++b) {
      const Band<K>& from = bands[b];
      const int64_t begin = larger(range.begin, from.first_simplex);
      const int64_t end = smaller(range.end, from.first_simplex + from.simplices.size());
      if (begin >= end) continue;
      std::memcpy(out + begin * corners,
                  from.simplex_vertices.data() + (begin - from.first_simplex) * corners,
                  size_t((end - begin) * corners) * sizeof(int32_t));
    }
  }
  // has_lower[-1] takes what is said of vertices that are not there.
  void find_upper(K step, int32_t* up, uint8_t* has_lower) const {
    const HashTable<K>& table = bands[0].vertices;
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

  Buffer<int32_t> chains[kMaxDims + 1];
};

DENSECRF_END
