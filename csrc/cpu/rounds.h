// Where the filtered values of a mean field run are kept, iteration by iteration.
#pragma once
#include <cstdint>

#include "core/macros.h"

DENSECRF_BEGIN

// Round r at base + (r % rounds) * step: two that take turns, or all of them.
template <class T>
struct Rounds {
  T* base = nullptr;
  int64_t step = 0;
  int rounds = 0;

  T* at(int round) const { return base + (round % rounds) * step; }
};

DENSECRF_END
