// What the lattice filter wants beside the lattice itself; made by lattice_tables.cu, read by
// lattice_filter.cu.  Ids are those of the whole batch.
#pragma once
#include "cuda/launch.cuh"

DENSECRF_BEGIN

template <class T>
struct FilterTables {
  int64_t entries;  // E = B * n * (d+1), pairs of a point and a corner of its simplex, in the order of the
                    // corners
  int32_t* vertex;  // [E] the corner
  int32_t* point;   // [E]
  T* weight;        // [E]
  int32_t* starts;  // [M+1] first entry of each vertex
  int32_t* neighbours;  // [d+1, M, 2] one step down and one step up along each axis, or -1

  FilterTables(const LatticeBatch<T>& lattice, Arena* arena)
      : entries(lattice.images * lattice.points * (lattice.dims + 1)),
        vertex(arena->take<int32_t>(entries)),
        point(arena->take<int32_t>(entries)),
        weight(arena->take<T>(entries)),
        starts(arena->take<int32_t>(lattice.vertices + 1)),
        neighbours(arena->take<int32_t>(2 * lattice.vertices * (lattice.dims + 1))) {}
};

DENSECRF_END
