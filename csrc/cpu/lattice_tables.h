// What the build of a lattice finds, as long as only the build knows its size; and the chains of its
// vertices.
#pragma once
#include "cpu/buffer.h"
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

  // Strings the vertices of every axis into chains.
  Status link(int threads) {
    vertices = bands[0].vertices.size();
    Buffer<int32_t> up;
    Buffer<uint8_t> has_lower;
    if (!up.resize(vertices * (dims + 1)) || !has_lower.resize((vertices + 1) * (dims + 1)))
      return Status::kOutOfMemory;
    std::memset(has_lower.data(), 0, size_t(has_lower.size()));
    Status status[kMaxDims + 1] = {};
    parallel(threads, [&](Team& team, int thread) {
      Range mine = band(vertices, team.size(), thread);
      for (int a = 0; a <= dims; ++a)
        find_upper(mine, code.step[a], &up[a * vertices], &has_lower[a * (vertices + 1) + 1]);
      team.barrier();
      for (int a = thread; a <= dims; a += team.size())
        status[a] =
            string_chains(vertices, &up[a * vertices], &has_lower[a * (vertices + 1) + 1], &chains[a]);
    });
    for (int a = 0; a <= dims; ++a) {
      if (status[a] != Status::kOk) return status[a];
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
  [[gnu::noinline]] void find_upper(Range range, K step, int32_t* up, uint8_t* has_lower) const {
    const HashTable<K>& table = bands[0].vertices;
    K keys[2][kTogether];
    const auto load = [&](int64_t first, K* to) {
      for (int64_t v = first; v < smaller(first + kTogether, range.end); ++v) {
        *to = table.key(v) + step;
        table.prefetch(*to++);
      }
    };
    load(range.begin, keys[0]);
    int side = 0;
    for (int64_t first = range.begin; first < range.end; first += kTogether, side ^= 1) {
      const int count = int(smaller<int64_t>(kTogether, range.end - first));
      load(first + kTogether, keys[side ^ 1]);
      table.template find_all<kTogether>(keys[side], count, up + first);
      for (int64_t v = first; v < first + count; ++v) has_lower[up[v]] = 1;
    }
  }
  [[gnu::noinline]] static Status string_chains(int64_t vertices, const int32_t* up, const uint8_t* has_lower,
                                                Buffer<int32_t>* out) {
    if (!out->resize(vertices)) return Status::kOutOfMemory;
    int32_t* chain = out->data();
    int64_t n = 0;
    for (int64_t first = 0; first < vertices; first += kTogether) {
      int32_t starts[kTogether];
      int many = 0;
      for (int64_t v = first; v < smaller(first + kTogether, vertices); ++v) {
        __builtin_prefetch(&up[up[v]]);
        starts[many] = int32_t(v);
        many += !has_lower[v] & (up[v] != HashTable<K>::kNone);
      }
      for (int i = 0; i < many; ++i) {
        int32_t at = starts[i];
        for (; up[at] != HashTable<K>::kNone; at = up[at]) chain[n++] = at;
        chain[n++] = ~at;
      }
    }
    out->resize(n);
    return Status::kOk;
  }

  Buffer<int32_t> chains[kMaxDims + 1];
};

DENSECRF_END
