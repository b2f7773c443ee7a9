// Building the permutohedral lattice: each thread embeds a band of points and numbers the simplices and
// vertices it meets; the vertex tables are then merged, and the vertices of each axis strung into chains of
// neighbours.
//
// Neighbouring points share simplices (S is 0.1 ... 0.9 of N on photographs), so the simplex is looked up
// first and its d+1 vertices only when it is new.  Ids follow the first touch in raster order, which keeps
// the later passes local.
#include <new>

#include "core/bridges.h"
#include "core/simplex.h"
#include "cpu/blocks.h"
#include "cpu/extent.h"
#include "cpu/lattice_tables.h"
#include "cpu/ops.h"
#include "cpu/pixels.h"

DENSECRF_BEGIN

namespace {

constexpr int kVertices = 192;  // so many, at most, are looked up together
static_assert(kVertices > kMaxDims, "those of a simplex at least");
constexpr uint8_t kSecond = 1, kFourth = 2;  // kinds of bridges

template <class T, class C, class K, int D>
class Builder {
 public:
  Builder(const LatticeRequest<T>& request, Tables<K>* tables)
      : request_(request), tables_(tables), d_(request.dims) {
    elevation_scales(dims(), request.scale, scales_);
  }

  Status run() {
    parallel(request_.threads, [&](Team& team, int thread) {
      if (thread == 0) tables_->num_bands = team.size();
      Band<K>& mine = tables_->bands[thread];
      const Range points = band(request_.points, team.size(), thread);
      mine.simplex_vertices = request_.simplex_vertices + points.begin * (dims() + 1);
      mine.status = mine.init(request_.points / team.size());
      if (mine.status == Status::kOk) mine.status = embed(points, &mine);
      if (mine.status == Status::kOk && request_.pad_origin && thread == team.size() - 1)
        mine.status = embed_origin(&mine);
      team.barrier();
      if (thread == 0) status_ = merge();
      team.barrier();
      if (status_ == Status::kOk && request_.bridges) {
        if (!find_bridges(band(corners_, team.size(), thread), &mine.bridges))
          mine.status = Status::kOutOfMemory;
        team.barrier();
        if (thread == 0) status_ = add_bridges();
      }
      const int32_t first = int32_t(mine.first_simplex);
      for (int64_t p = points.begin; p < points.end && first; ++p) request_.simplex[p] += first;
    });
    return status_;
  }
  int64_t corners() const { return corners_; }

 private:
  using Block = Simplex<C, D, kLanes>;

  // A constant where the code is for one number of dimensions.
  int dims() const { return D ? D : d_; }

  Status embed(Range range, Band<K>* out) {
    T features[kLanes * (D ? D : kMaxDims)];
    Block block;
    for (int64_t first = range.begin; first < range.end; first += kLanes) {
      int count = int(smaller<int64_t>(kLanes, range.end - first));
      if (request_.image)
        load_pixels(*request_.image, first, count, features);
      else
        load_block(request_.features + first * dims(), dims(), count, features);
      Status status = insert(features, count, &block, out, request_.simplex + first,
                             request_.weights + first * (dims() + 1));
      if (status != Status::kOk) return status;
    }
    return Status::kOk;
  }
  Status embed_origin(Band<K>* out) {
    const T origin[kLanes * (D ? D : kMaxDims)] = {};
    Block block;
    int32_t simplex;
    T weights[kMaxDims + 1];
    return insert(origin, 1, &block, out, &simplex, weights);
  }

  // Neighbouring points in one simplex (a quarter of a photograph's points in the standard setting, a tenth
  // in the default one) are looked up once.
  Status insert(const T* features, int count, Block* block, Band<K>* out, int32_t* simplex, T* weights) {
    if (!out->simplices.make_room(kLanes)) return Status::kOutOfMemory;
    block->elevate(dims(), features, scales_);
    block->locate(dims());
    K keys[kLanes + 1];
    block->simplex_keys(dims(), tables_->code, keys + 1);
    keys[0] = ~keys[1];  // the first point begins a run
    KeyBatch<K, kLanes> runs;
    int run_of[kLanes], point_of[kLanes];  // a point of each run
    for (int n = 0; n < count; ++n) {
      runs.add(keys[n + 1], keys[n + 1] != keys[n]);
      run_of[n] = runs.count - 1;
      point_of[run_of[n]] = n;
    }
    runs.hash();
    out->simplices.prefetch(runs);
    for (int n = 0; n < count; ++n) {
      for (int k = 0; k <= dims(); ++k) weights[n * (dims() + 1) + k] = T(block->weight[k][n]);
    }
    int32_t ids[kLanes];
    int fresh[kLanes], many = 0;
    int64_t next = out->simplices.size();
    out->simplices.insert_all(runs, ids);
    for (int r = 0; r < runs.count; ++r) {
      fresh[many] = point_of[r];
      const int first = int(ids[r] == next);
      many += first;
      next += first;
    }
    for (int n = 0; n < count; ++n) simplex[n] = ids[run_of[n]];
    if (!insert_vertices(*block, fresh, many, out)) return Status::kOutOfMemory;
    return out->vertices.size() < INT32_MAX / 2 && out->simplices.size() < INT32_MAX / 2
               ? Status::kOk
               : Status::kTooManyVertices;
  }

  // The corners of the last `count` simplices: those of some points of the block.
  bool insert_vertices(const Block& block, const int* points, int count, Band<K>* out) {
    const int corners = dims() + 1, together = kVertices / corners;
    int32_t* to = out->simplex_vertices + (out->simplices.size() - count) * corners;
    for (int first = 0; first < count; first += together) {
      KeyBatch<K, kVertices> batch;
      int axes[kVertices];
      for (int i = first; i < smaller(first + together, count); ++i) {
        K keys[(D ? D : kMaxDims) + 1];
        block.vertex_keys(dims(), tables_->code, points[i], keys, axes + batch.count);
        for (int k = 0; k < corners; ++k) batch.add(keys[k]);
      }
      if (!out->vertices.make_room(batch.count)) return false;
      batch.hash();
      out->vertices.prefetch(batch);
      out->vertices.insert_all(batch, to);
      if (request_.bridges && !want_bridges(to, axes, batch.count / corners, out)) return false;
      to += batch.count;
    }
    return true;
  }
  bool want_bridges(const int32_t* vertices, const int* axes, int simplices, Band<K>* out) const {
    const int n = dims() + 1;
    if (!grow_wanted(out)) return false;
    for (int s = 0; s < simplices; ++s, vertices += n, axes += n) {
      for (int k = 0; k < n; ++k) {
        uint8_t* wanted = &out->wanted[int64_t(vertices[k]) * n];
        wanted[axes[(k + kSecondStep) % n]] |= kSecond;
        wanted[axes[(k + kFourthStep) % n]] |= kFourth;
      }
    }
    return true;
  }
  bool grow_wanted(Band<K>* band) const {
    const int64_t old = band->wanted.size(), size = band->vertices.size() * (dims() + 1);
    if (!band->wanted.resize(size)) return false;
    if (size > old) std::memset(band->wanted.data() + old, 0, size_t(size - old));
    return true;
  }

  // Adds the corners of every other band to band 0 and numbers the simplices through.
  Status merge() {
    HashTable<K>& all = tables_->bands[0].vertices;
    int64_t simplices = 0;
    for (int b = 0; b < tables_->num_bands; ++b) {
      Band<K>& from = tables_->bands[b];
      if (from.status != Status::kOk) return from.status;
      const int64_t found = from.simplices.size();
      from.first_simplex = simplices;
      simplices += found;
      from.simplices.release();
      if (b == 0) continue;
      Buffer<int32_t> merged;
      if (!merged.resize(from.vertices.size()) || !all.make_room(from.vertices.size()))
        return Status::kOutOfMemory;
      insert_all(from.vertices, &all, merged.data());
      if (all.size() >= INT32_MAX) return Status::kTooManyVertices;
      const int64_t corners = dims() + 1;
      int32_t* to = request_.simplex_vertices + from.first_simplex * corners;
      for (int64_t i = 0; i < found * corners; ++i) to[i] = merged[from.simplex_vertices[i]];
      if (request_.bridges && !merge_wanted(from, merged.data())) return Status::kOutOfMemory;
      from.vertices.release();
      from.wanted.release();
    }
    tables_->simplices = simplices;
    corners_ = all.size();
    sparse_ = is_sparse(corners_, request_.points);
    return checked_size();
  }

  bool merge_wanted(const Band<K>& from, const int32_t* merged) const {
    const int n = dims() + 1;
    Band<K>& all = tables_->bands[0];
    if (!grow_wanted(&all)) return false;
    for (int64_t v = 0; v < from.vertices.size(); ++v) {
      for (int a = 0; a < n; ++a) all.wanted[int64_t(merged[v]) * n + a] |= from.wanted[v * n + a];
    }
    return true;
  }

  // Collects the wanted bridges above some corners, those that are no corners themselves.  Looked up once per
  // corner and axis, not once per simplex, of which there are some four to a corner.
  bool find_bridges(Range range, HashTable<K>* bridges) const {
    const HashTable<K>& corners = tables_->bands[0].vertices;
    const uint8_t kinds = sparse_ ? kSecond | kFourth : kSecond;
    const int n = dims() + 1, together = kVertices / n;
    if (!bridges->init((range.end - range.begin) / 2)) return false;
    for (int64_t first = range.begin; first < range.end; first += together) {
      KeyBatch<K, kVertices> above, missing;
      int32_t ids[kVertices];
      for (int64_t v = first; v < smaller(first + together, range.end); ++v) {
        const uint8_t* wanted = tables_->bands[0].wanted.data() + v * n;
        for (int a = 0; a < n; ++a)
          above.add(corners.key(v) + tables_->code.step[a], (wanted[a] & kinds) != 0);
      }
      above.hash();
      corners.prefetch(above);
      corners.find_all(above, ids);
      for (int i = 0; i < above.count; ++i) missing.add(above.keys[i], ids[i] == HashTable<K>::kNone);
      if (!bridges->make_room(missing.count)) return false;
      missing.hash();
      bridges->prefetch(missing);
      bridges->insert_all(missing, ids);
    }
    return true;
  }

  // Bridges come last, so that splat and slice touch a compact part of the values.
  Status add_bridges() {
    HashTable<K>& all = tables_->bands[0].vertices;
    tables_->bands[0].wanted.release();
    for (int b = 0; b < tables_->num_bands; ++b) {
      Band<K>& from = tables_->bands[b];
      if (from.status != Status::kOk) return from.status;
      if (!all.make_room(from.bridges.size())) return Status::kOutOfMemory;
      insert_all(from.bridges, &all, nullptr);
      from.bridges.release();
    }
    return checked_size();
  }

  // ids: of the keys of `from` in `to`, or null.
  static void insert_all(const HashTable<K>& from, HashTable<K>* to, int32_t* ids) {
    for (int64_t first = 0; first < from.size(); first += kLanes) {
      KeyBatch<K, kLanes> batch;
      int32_t found[kLanes];
      batch.fill(int(smaller<int64_t>(kLanes, from.size() - first)),
                 [&](int i) { return from.key(first + i); });
      to->prefetch(batch);
      to->insert_all(batch, found);
      if (ids) std::memcpy(ids + first, found, size_t(batch.count) * sizeof(int32_t));
    }
  }
  Status checked_size() const {
    const bool fits = tables_->simplices < INT32_MAX && tables_->bands[0].vertices.size() < INT32_MAX;
    return fits ? Status::kOk : Status::kTooManyVertices;
  }

  const LatticeRequest<T>& request_;
  Tables<K>* tables_;
  int d_;
  int64_t corners_ = 0;
  bool sparse_ = false;
  C scales_[D ? D : kMaxDims];
  Status status_ = Status::kOk;
};

template <class T, class C, class K, int D>
Status build(const LatticeRequest<T>& request, Tables<K>* tables, LatticeResult* result) {
  tables->bands = new (std::nothrow) Band<K>[size_t(request.threads)];
  if (!tables->bands) return Status::kOutOfMemory;
  Builder<T, C, K, D> builder(request, tables);
  const Status status = builder.run();
  if (status != Status::kOk) return status;
  result->simplices = tables->simplices;
  result->vertices = tables->bands[0].vertices.size();
  return tables->link(builder.corners(), request.threads, request.chain_starts, &result->chains);
}

template <class T, class C, class K>
Status start(const LatticeRequest<T>& request, const Extent& extent, LatticeResult* result) {
  Tables<K> tables;
  tables.dims = request.dims;
  make_code(request.dims, extent.lo, extent.hi, 1, true, &tables.code);
  if constexpr (sizeof(C) == sizeof(float) &&
                sizeof(K) == sizeof(Key64)) {  // the common case has its own code
    switch (request.dims) {
      case 2:
        return build<T, C, K, 2>(request, &tables, result);
      case 3:
        return build<T, C, K, 3>(request, &tables, result);
      case 5:
        return build<T, C, K, 5>(request, &tables, result);
      case 6:
        return build<T, C, K, 6>(request, &tables, result);
    }
  }
  return build<T, C, K, 0>(request, &tables, result);
}

}  // namespace

template <class T>
Status lattice_build(const LatticeRequest<T>& request, LatticeResult* result) {
  Extent extent;
  Status status = elevated_extent(request, &extent);
  if (status != Status::kOk) return status;
  KeyCode<Key64> probe;
  bool narrow = make_code(request.dims, extent.lo, extent.hi, 1, false, &probe);
  if (wants_double<T>(extent)) {
    return narrow ? start<T, double, Key64>(request, extent, result)
                  : start<T, double, Key128>(request, extent, result);
  }
  return narrow ? start<T, float, Key64>(request, extent, result)
                : start<T, float, Key128>(request, extent, result);
}

template Status lattice_build(const LatticeRequest<float>&, LatticeResult*);
template Status lattice_build(const LatticeRequest<double>&, LatticeResult*);

DENSECRF_END
