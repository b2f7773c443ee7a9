// The tables that make the filter's splat a sum over sorted entries and its blur a look-up.
//
// Neighbours, not chains: any vertex can then be blurred by itself, and a build on the device finds them with
// one look-up each, where chains would have to be strung together.  Chains become neighbours by one scatter.
#include "cuda/filter_tables.cuh"
#include "cuda/sort.h"

DENSECRF_BEGIN

namespace {

constexpr int kThreadsEach = 256;
constexpr int64_t kMostScatterBlocks = 1024;  // kernels stride over what lies beyond

struct BuildSpace {
  int bits;  // of a vertex id
  int32_t *vertex, *entry, *sorted_entry;
  size_t sort_bytes;
  char* sort;

  BuildSpace(int64_t entries, int64_t vertices, Arena* arena) : bits(1) {
    while (bits < 31 && vertices > int64_t(1) << bits) ++bits;
    vertex = arena->take<int32_t>(entries);
    entry = arena->take<int32_t>(entries);
    sorted_entry = arena->take<int32_t>(entries);
    sort_bytes = sort_workspace(entries, bits);
    sort = arena->take<char>(int64_t(sort_bytes));
  }
};

template <class T>
int64_t entries_of(const LatticeBatch<T>& lattice) {
  return lattice.images * lattice.points * (lattice.dims + 1);
}

__device__ inline int64_t thread_in_x() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

// Entries in the order of the points: entry p * (d+1) + k is corner k of point p.
template <class T>
__global__ void __launch_bounds__(kThreadsEach)
    list_entries(LatticeBatch<T> lattice, int32_t* vertex, int32_t* entry) {
  const int corners = lattice.dims + 1;
  const int64_t i = thread_in_x();
  if (i >= lattice.points * corners) return;
  for (int64_t b = blockIdx.y; b < lattice.images; b += gridDim.y) {
    const int64_t* before = lattice.before + 3 * b;
    const int64_t simplex = before[0] + lattice.simplex[b * lattice.points + i / corners];
    const int64_t e = b * lattice.points * corners + i;
    vertex[e] = int32_t(before[1] + lattice.simplex_vertices[simplex * corners + i % corners]);
    entry[e] = int32_t(e);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreadsEach)
    gather_entries(int64_t entries, int corners, const int32_t* entry, const T* weights, int32_t* point,
                   T* weight) {
  const int64_t i = thread_in_x();
  if (i >= entries) return;
  point[i] = entry[i] / corners;
  weight[i] = weights[entry[i]];
}

// By bisection: vertices that no point splats to come in long runs.
static __global__ void __launch_bounds__(kThreadsEach)
    find_starts(int64_t entries, int64_t vertices, const int32_t* vertex, int32_t* starts) {
  const int64_t v = thread_in_x();
  if (v > vertices) return;
  int64_t low = 0, high = entries;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (vertex[middle] < v)
      low = middle + 1;
    else
      high = middle;
  }
  starts[v] = int32_t(low);
}

__device__ inline int32_t id_of(int32_t link) { return link < 0 ? ~link : link; }

// One block of threads works on chains of one axis of one image.
template <class T>
__global__ void __launch_bounds__(kThreadsEach)
    link_neighbours(LatticeBatch<T> lattice, int32_t* neighbours) {
  const int axis = int(blockIdx.z);
  int32_t* of_axis = neighbours + 2 * axis * lattice.vertices;
  for (int64_t b = blockIdx.y; b < lattice.images; b += gridDim.y) {
    const int64_t* starts = lattice.chain_starts + b * (lattice.dims + 2);
    const int32_t* chains = lattice.chains + lattice.before[3 * b + 2];
    const int64_t first = lattice.before[3 * b + 1];
    for (int64_t i = starts[axis] + thread_in_x(); i < starts[axis + 1];
         i += int64_t(gridDim.x) * blockDim.x) {
      if (chains[i] < 0) continue;  // the last of its chain
      const int64_t lower = first + chains[i], upper = first + id_of(chains[i + 1]);
      of_axis[2 * lower + 1] = int32_t(upper);
      of_axis[2 * upper] = int32_t(lower);
    }
  }
}

template <class T>
void queue_entries(const LatticeBatch<T>& lattice, const FilterTables<T>& tables, const BuildSpace& space,
                   Queue* queue) {
  const int corners = lattice.dims + 1;
  queue->run(dim3(blocks_for(lattice.points * corners, kThreadsEach), strided_blocks(lattice.images)),
             kThreadsEach, list_entries<T>, lattice, space.vertex, space.entry);
  if (queue->status() != Status::kOk) return;
  queue->check(sort_pairs(tables.entries, space.bits, space.vertex, tables.vertex, space.entry,
                          space.sorted_entry, space.sort, space.sort_bytes, queue->stream()));
  queue->run(blocks_for(tables.entries, kThreadsEach), kThreadsEach, gather_entries<T>, tables.entries,
             corners, space.sorted_entry, lattice.weights, tables.point, tables.weight);
  queue->run(blocks_for(lattice.vertices + 1, kThreadsEach), kThreadsEach, find_starts, tables.entries,
             lattice.vertices, tables.vertex, tables.starts);
}

template <class T>
void queue_neighbours(const LatticeBatch<T>& lattice, const FilterTables<T>& tables, Queue* queue) {
  const int64_t axes = lattice.dims + 1, each = blocks_for(lattice.vertices, kThreadsEach);
  queue->fill(tables.neighbours, 0xFF, size_t(2 * lattice.vertices * axes) * sizeof(int32_t));  // -1
  const int64_t blocks = each < kMostScatterBlocks ? each : kMostScatterBlocks;
  queue->run(dim3(unsigned(blocks), strided_blocks(lattice.images), unsigned(axes)), kThreadsEach,
             link_neighbours<T>, lattice, tables.neighbours);
}

}  // namespace

template <class T>
size_t filter_tables_bytes(const LatticeBatch<T>& lattice) {
  Arena arena(nullptr);
  FilterTables<T> tables(lattice, &arena);
  return arena.bytes();
}

template <class T>
size_t filter_tables_workspace(const LatticeBatch<T>& lattice) {
  Arena arena(nullptr);
  BuildSpace space(entries_of(lattice), lattice.vertices, &arena);
  return arena.bytes();
}

template <class T>
Status make_filter_tables(const LatticeBatch<T>& lattice, void* memory, void* workspace, Stream stream) {
  if (entries_of(lattice) >= INT32_MAX || lattice.vertices >= INT32_MAX) return Status::kTooManyVertices;
  Arena kept(memory), passing(workspace);
  const FilterTables<T> tables(lattice, &kept);
  const BuildSpace space(tables.entries, lattice.vertices, &passing);
  Queue queue(stream);
  queue_entries(lattice, tables, space, &queue);
  queue_neighbours(lattice, tables, &queue);
  return queue.status();
}

template size_t filter_tables_bytes(const LatticeBatch<float>&);
template size_t filter_tables_bytes(const LatticeBatch<double>&);
template size_t filter_tables_workspace(const LatticeBatch<float>&);
template size_t filter_tables_workspace(const LatticeBatch<double>&);
template Status make_filter_tables(const LatticeBatch<float>&, void*, void*, Stream);
template Status make_filter_tables(const LatticeBatch<double>&, void*, void*, Stream);

DENSECRF_END
