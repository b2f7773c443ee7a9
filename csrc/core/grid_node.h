// Where pixels lie between the nodes of a spatial grid.
#pragma once
#include <cstdint>

#include "core/macros.h"

DENSECRF_BEGIN

DENSECRF_HD int64_t grid_nodes(int64_t size, int spacing) {
  return spacing == 1 ? size : (size - 1) / spacing + 2;
}

// Fraction towards the next node of a pixel that is so many pixels past the first one of its node.  Nodes lie
// half a pixel off the pixels, so that every pixel of a pair (spacing 2) spreads equally far: the kernel then
// is the same everywhere.
template <class T>
DENSECRF_HD T node_fraction(int64_t past, int spacing) {
  return (T(past) + T(0.5)) / T(spacing);
}

// Node below a pixel and the fraction towards the next one.
template <class T>
struct NodeAt {
  int64_t node;
  T fraction;
  DENSECRF_HD NodeAt(int64_t pixel, int spacing)
      : node(pixel / spacing), fraction(spacing == 1 ? T(0) : node_fraction<T>(pixel % spacing, spacing)) {}
};

DENSECRF_END
