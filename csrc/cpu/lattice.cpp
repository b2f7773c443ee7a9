// Building the permutohedral lattice: each thread embeds a band of points and numbers the simplices and
// vertices it meets; the vertex tables are then merged, and the vertices of each axis strung into chains of
// neighbours.
//
// Neighbouring points share simplices (S is 0.1 ... 0.9 of N on photographs), so the simplex is looked up
// first and its d+1 vertices only when it is new.  Ids follow the first touch in raster order, which keeps
// the later passes local.
#include <new>

#include "core/simplex.h"
#include "cpu/buffer.h"
#include "cpu/hash_table.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"

DENSECRF_BEGIN

namespace {

// Above 16, or gcc unrolls the loops over lanes whole before it could vectorise them (build 1.25x slower).
constexpr int kLanes = 32;

// What LatticeTables points to.
class AnyTables {
 public:
  virtual ~AnyTables() = default;
  virtual LatticeSizes sizes() const = 0;
  virtual void fill(int threads, int32_t* simplex_vertices, int32_t* chains, int64_t* chain_starts) const = 0;
};
LatticeTables* hide(AnyTables* tables) { return reinterpret_cast<LatticeTables*>(tables); }
const AnyTables* reveal(const LatticeTables* tables) { return reinterpret_cast<const AnyTables*>(tables); }

template <class K>
struct Band {
  HashTable<K> simplices, vertices;
  Buffer<int32_t> simplex_vertices;  // [S, d+1] vertex ids, of this band's table until the merge
  Buffer<K> vertex_keys;             // [M] of the vertices that points splat to
  Buffer<K> bridge_keys;      // of vertices that only the blur passes through, as met; without repeats after
                              // sift(), some of them corners, too
  Buffer<int32_t> to_merged;  // [M] this band's vertex id -> merged id
  int64_t first_simplex = 0;  // global id of this band's first simplex
  Status status = Status::kOk;
};

template <class K>
class Tables final : public AnyTables {
 public:
  int dims = 0, num_bands = 0;
  KeyCode<K> code;
  Band<K>* bands = nullptr;
  int64_t simplices = 0;

  ~Tables() override { delete[] bands; }
  // Band 0 holds the merged vertex table.
  LatticeSizes sizes() const override {
    int64_t chained = 0;
    for (int a = 0; a <= dims; ++a) chained += chains[a].size();
    return {simplices, bands[0].vertex_keys.size(), chained};
  }

  // Strings the vertices of every axis into chains.
  Status link(int threads) {
    int64_t vertices = bands[0].vertex_keys.size();
    Buffer<int32_t> up;
    Buffer<uint8_t> has_lower;
    if (!up.resize(vertices * (dims + 1)) || !has_lower.resize(vertices * (dims + 1)))
      return Status::kOutOfMemory;
    std::memset(has_lower.data(), 0, size_t(has_lower.size()));
    Status status[kMaxDims + 1] = {};
    parallel(threads, [&](Team& team, int thread) {
      Range mine = band(vertices, team.size(), thread);
      for (int a = 0; a <= dims; ++a)
        find_upper(mine, code.step[a], &up[a * vertices], &has_lower[a * vertices]);
      team.barrier();
      for (int a = thread; a <= dims; a += team.size())
        status[a] = string_chains(vertices, &up[a * vertices], &has_lower[a * vertices], &chains[a]);
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
  void fill_simplices(Range range, int32_t* out) const {
    int corners = dims + 1;
    for (int b = 0; b < num_bands; ++b) {
      const Band<K>& from = bands[b];
      int64_t begin = larger(range.begin, from.first_simplex);
      int64_t end = smaller(range.end, from.first_simplex + from.simplices.size());
      for (int64_t i = begin * corners; i < end * corners; ++i) {
        int32_t id = from.simplex_vertices[i - from.first_simplex * corners];
        out[i] = b == 0 ? id : from.to_merged[id];
      }
    }
  }
  void find_upper(Range range, K step, int32_t* up, uint8_t* has_lower) const {
    constexpr int kAhead = 24;
    const Buffer<K>& keys = bands[0].vertex_keys;
    for (int64_t v = range.begin; v < range.end; ++v) {
      if (v + kAhead < range.end) bands[0].vertices.prefetch(keys[v + kAhead] + step);
      up[v] = bands[0].vertices.find(keys[v] + step);
      if (up[v] != HashTable<K>::kNone) has_lower[up[v]] = 1;
    }
  }
  static Status string_chains(int64_t vertices, const int32_t* up, const uint8_t* has_lower,
                              Buffer<int32_t>* out) {
    if (!out->resize(vertices)) return Status::kOutOfMemory;
    int32_t* chain = out->data();
    int64_t n = 0;
    for (int64_t v = 0; v < vertices; ++v) {
      if (has_lower[v] || up[v] == HashTable<K>::kNone) continue;
      int32_t at = int32_t(v);
      for (; up[at] != HashTable<K>::kNone; at = up[at]) chain[n++] = at;
      chain[n++] = ~at;
    }
    out->resize(n);
    return Status::kOk;
  }

  Buffer<int32_t> chains[kMaxDims + 1];
};

// Extent of the elevated coordinates over all points, by interval arithmetic on the extent of each feature.
struct Extent {
  double lo[kMaxDims + 1], hi[kMaxDims + 1];
  double reach;  // largest absolute value
};

void elevated_extent(int d, double scale, const double* lo, const double* hi, Extent* out) {
  double scales[kMaxDims];
  elevation_scales(d, scale, scales);
  double sum_lo = 0, sum_hi = 0;
  out->reach = 0;
  for (int j = d; j >= 0; --j) {
    double c_lo = j ? lo[j - 1] * scales[j - 1] : 0, c_hi = j ? hi[j - 1] * scales[j - 1] : 0;
    out->lo[j] = sum_lo - j * c_hi;
    out->hi[j] = sum_hi - j * c_lo;
    out->reach = larger(out->reach, larger(out->hi[j], -out->lo[j]));
    sum_lo += c_lo;
    sum_hi += c_hi;
  }
}

// Smallest and largest value of each feature.
template <class T>
Status feature_extent(const LatticeRequest<T>& request, double* lo, double* hi) {
  int d = request.dims;
  Buffer<T> found;
  Buffer<uint8_t> finite;
  int parts = smaller(request.threads, kMaxThreads);
  if (!found.resize(int64_t(parts) * 2 * d) || !finite.resize(parts)) return Status::kOutOfMemory;
  for (int i = 0; i < parts; ++i) {
    finite[i] = 1;
    for (int j = 0; j < d; ++j) found[(2 * i) * d + j] = found[(2 * i + 1) * d + j] = request.features[j];
  }
  parallel(parts, [&](Team& team, int thread) {
    Range range = band(request.points, team.size(), thread);
    T* low = &found[int64_t(2 * thread) * d];
    T* high = low + d;
    T bad = 0;  // x - x is 0, or NaN where x is not finite
    for (int64_t i = range.begin; i < range.end; ++i) {
      const T* f = request.features + i * d;
      for (int j = 0; j < d; ++j) {
        low[j] = f[j] < low[j] ? f[j] : low[j];
        high[j] = f[j] > high[j] ? f[j] : high[j];
        bad += f[j] - f[j];
      }
    }
    finite[thread] = bad == 0;
  });
  bool ok = true;
  for (int j = 0; j < d; ++j) lo[j] = hi[j] = request.pad_origin ? 0 : double(request.features[j]);
  for (int i = 0; i < parts; ++i) {
    ok = ok && finite[i];
    for (int j = 0; j < d; ++j) {
      lo[j] = smaller(lo[j], double(found[int64_t(2 * i) * d + j]));
      hi[j] = larger(hi[j], double(found[int64_t(2 * i + 1) * d + j]));
    }
  }
  return ok ? Status::kOk : Status::kNotFinite;
}

template <class T, class C, class K, int D>
class Builder {
 public:
  Builder(const LatticeRequest<T>& request, Tables<K>* tables)
      : request_(request), tables_(tables), d_(D ? D : request.dims) {
    elevation_scales(d_, request.scale, scales_);
  }

  Status run() {
    parallel(request_.threads, [&](Team& team, int thread) {
      tables_->num_bands = team.size();
      Range range = band(request_.points, team.size(), thread);
      tables_->bands[thread].status =
          embed(range, &tables_->bands[thread], thread == team.size() - 1 && request_.pad_origin);
      team.barrier();
      if (thread == 0) status_ = merge();
      team.barrier();
      int32_t first = int32_t(tables_->bands[thread].first_simplex);
      if (status_ == Status::kOk && first) {
        for (int64_t i = range.begin; i < range.end; ++i) request_.simplex[i] += first;
      }
    });
    return status_;
  }

 private:
  using Block = Simplex<C, D, kLanes>;

  Status embed(Range range, Band<K>* out, bool pad_origin) {
    int64_t points = range.end - range.begin;
    if (!out->simplices.init(points / 3) || !out->vertices.init(points / 3)) return Status::kOutOfMemory;
    T padded[kLanes * (D ? D : kMaxDims)];
    Block block;
    for (int64_t first = range.begin; first < range.end; first += kLanes) {
      int count = int(smaller<int64_t>(kLanes, range.end - first));
      const T* features = request_.features + first * d_;
      if (count < kLanes) {
        for (int i = 0; i < kLanes * d_; ++i) padded[i] = features[i < count * d_ ? i : i % d_];
        features = padded;
      }
      Status status =
          insert(features, count, &block, out, request_.simplex + first, request_.weights + first * (d_ + 1));
      if (status != Status::kOk) return status;
    }
    if (pad_origin) {
      for (int i = 0; i < kLanes * d_; ++i) padded[i] = 0;
      int32_t simplex;
      T weights[kMaxDims + 1];
      Status status = insert(padded, 1, &block, out, &simplex, weights);
      if (status != Status::kOk) return status;
    }
    return sift(out) ? Status::kOk : Status::kOutOfMemory;
  }

  Status insert(const T* features, int count, Block* block, Band<K>* out, int32_t* simplex, T* weights) {
    if (!out->simplices.make_room(kLanes)) return Status::kOutOfMemory;
    block->elevate(d_, features, scales_);
    block->locate(d_);
    K keys[kLanes];
    for (int n = 0; n < count; ++n) {
      keys[n] = block->simplex_key(d_, tables_->code, n);
      out->simplices.prefetch(keys[n]);
    }
    for (int n = 0; n < count; ++n) {
      for (int k = 0; k <= d_; ++k) weights[n * (d_ + 1) + k] = T(block->weight[k][n]);
    }
    for (int n = 0; n < count; ++n) {
      int64_t before = out->simplices.size();
      simplex[n] = out->simplices.insert(keys[n]);
      if (out->simplices.size() > before && !insert_vertices(*block, n, out)) return Status::kOutOfMemory;
    }
    return out->vertices.size() < INT32_MAX / 2 && out->simplices.size() < INT32_MAX / 2
               ? Status::kOk
               : Status::kTooManyVertices;
  }

  bool insert_vertices(const Block& block, int n, Band<K>* out) {
    const int corners = d_ + 1, bridges = request_.bridges ? corners : 0;
    K keys[2 * ((D ? D : kMaxDims) + 1)];
    block.vertex_keys(d_, tables_->code, n, request_.bridges, keys);
    if (!out->vertices.make_room(corners)) return false;
    for (int k = 0; k < corners; ++k) out->vertices.prefetch(keys[k]);
    const int64_t at = out->simplex_vertices.size(), bridge_at = out->bridge_keys.size();
    if (!out->simplex_vertices.resize(at + corners) ||
        !out->vertex_keys.reserve(out->vertices.size() + corners) ||
        !out->bridge_keys.resize(bridge_at + bridges)) {
      return false;
    }
    for (int k = 0; k < corners; ++k) out->simplex_vertices[at + k] = insert_vertex(keys[k], out);
    for (int k = 0; k < bridges; ++k) out->bridge_keys[bridge_at + k] = keys[corners + k];
    return true;
  }
  // There must be room in the table and in vertex_keys.
  static int32_t insert_vertex(K key, Band<K>* out) {
    const int64_t before = out->vertices.size();
    const int32_t id = out->vertices.insert(key);
    if (out->vertices.size() > before) {
      out->vertex_keys.resize(before + 1);
      out->vertex_keys[before] = key;
    }
    return id;
  }

  // Leaves each bridge once.
  static bool sift(Band<K>* band) {
    HashTable<K> seen;
    Buffer<K>& keys = band->bridge_keys;
    if (!seen.init(keys.size() / 5)) return false;
    int64_t kept = 0;
    for (int64_t i = 0; i < keys.size(); ++i) {
      if (i + kLanes < keys.size()) seen.prefetch(keys[i + kLanes]);
      if (!seen.make_room(1)) return false;
      const int64_t before = seen.size();
      seen.insert(keys[i]);
      if (seen.size() > before) keys[kept++] = keys[i];
    }
    keys.resize(kept);
    return true;
  }

  // Adds the vertices of every other band to band 0 and numbers the simplices through.
  Status merge() {
    Band<K>& all = tables_->bands[0];
    int64_t simplices = 0;
    for (int b = 0; b < tables_->num_bands; ++b) {
      Band<K>& from = tables_->bands[b];
      if (from.status != Status::kOk) return from.status;
      from.first_simplex = simplices;
      simplices += from.simplices.size();
      if (b == 0) continue;
      const int64_t count = from.vertex_keys.size();
      if (!make_room(count, &all) || !from.to_merged.resize(count)) return Status::kOutOfMemory;
      for (int64_t i = 0; i < count; ++i) {
        if (i + kLanes < count) all.vertices.prefetch(from.vertex_keys[i + kLanes]);
        from.to_merged[i] = insert_vertex(from.vertex_keys[i], &all);
      }
      from.vertices.release();
    }
    // Bridges come last, so that splat and slice touch a compact part of the values.
    for (int b = 0; b < tables_->num_bands; ++b) {
      Buffer<K>& keys = tables_->bands[b].bridge_keys;
      if (!make_room(keys.size(), &all)) return Status::kOutOfMemory;
      for (int64_t i = 0; i < keys.size(); ++i) {
        if (i + kLanes < keys.size()) all.vertices.prefetch(keys[i + kLanes]);
        insert_vertex(keys[i], &all);
      }
      keys.release();
    }
    tables_->simplices = simplices;
    bool fits = simplices < INT32_MAX && all.vertices.size() < INT32_MAX;
    return fits ? Status::kOk : Status::kTooManyVertices;
  }

  static bool make_room(int64_t count, Band<K>* band) {
    return band->vertices.make_room(count) && band->vertex_keys.reserve(band->vertices.size() + count);
  }

  const LatticeRequest<T>& request_;
  Tables<K>* tables_;
  int d_;
  C scales_[D ? D : kMaxDims];
  Status status_ = Status::kOk;
};

template <class T, class C, class K, int D>
Status build(const LatticeRequest<T>& request, Tables<K>* tables) {
  tables->bands = new (std::nothrow) Band<K>[size_t(request.threads)];
  if (!tables->bands) return Status::kOutOfMemory;
  Builder<T, C, K, D> builder(request, tables);
  Status status = builder.run();
  return status == Status::kOk ? tables->link(request.threads) : status;
}

template <class T, class C, class K>
Status start(const LatticeRequest<T>& request, const Extent& extent, LatticeTables** out) {
  auto* tables = new (std::nothrow) Tables<K>;
  if (!tables) return Status::kOutOfMemory;
  *out = hide(tables);
  tables->dims = request.dims;
  make_code(request.dims, extent.lo, extent.hi, true, &tables->code);
  if constexpr (sizeof(C) == sizeof(float) &&
                sizeof(K) == sizeof(Key64)) {  // the common case has its own code
    switch (request.dims) {
      case 2:
        return build<T, C, K, 2>(request, tables);
      case 3:
        return build<T, C, K, 3>(request, tables);
      case 5:
        return build<T, C, K, 5>(request, tables);
      case 6:
        return build<T, C, K, 6>(request, tables);
    }
  }
  return build<T, C, K, 0>(request, tables);
}

}  // namespace

template <class T>
Status lattice_build(const LatticeRequest<T>& request, LatticeTables** tables) {
  double lo[kMaxDims], hi[kMaxDims];
  *tables = nullptr;
  Status status = feature_extent(request, lo, hi);
  if (status != Status::kOk) return status;
  Extent extent;
  elevated_extent(request.dims, request.scale, lo, hi, &extent);
  // Beyond 2^40 cells not even double arithmetic leaves digits for the barycentric weights; beyond 2^20 float
  // does not.
  if (!(extent.reach < 0x1p40)) return Status::kRangeTooLarge;
  KeyCode<Key64> probe;
  bool narrow = make_code(request.dims, extent.lo, extent.hi, false, &probe);
  if (sizeof(T) == sizeof(double) || extent.reach >= 0x1p20) {
    return narrow ? start<T, double, Key64>(request, extent, tables)
                  : start<T, double, Key128>(request, extent, tables);
  }
  return narrow ? start<T, float, Key64>(request, extent, tables)
                : start<T, float, Key128>(request, extent, tables);
}

LatticeSizes lattice_sizes(const LatticeTables* tables) { return reveal(tables)->sizes(); }

void lattice_export(const LatticeTables* tables, int threads, int32_t* simplex_vertices, int32_t* chains,
                    int64_t* chain_starts) {
  reveal(tables)->fill(threads, simplex_vertices, chains, chain_starts);
}

void lattice_free(LatticeTables* tables) { delete reveal(tables); }

template Status lattice_build(const LatticeRequest<float>&, LatticeTables**);
template Status lattice_build(const LatticeRequest<double>&, LatticeTables**);

DENSECRF_END
