// Bridges: vertices that only the blur passes, on its way between the corners of simplices.
//
// The steps from corner k of a simplex to the next ones are a, b, c, d (corner d+1 is corner 0 again): its
// bridges are k + b, on the way b, a, and in a lattice with at least kSparse points to a corner k + d, too.
#pragma once
#include <cstdint>

#include "core/macros.h"

DENSECRF_BEGIN

constexpr int kSecondStep = 1, kFourthStep = 3;  // b and d, counted from a
constexpr int kSparse = 3;

DENSECRF_HD bool is_sparse(int64_t corners, int64_t points) { return corners * kSparse <= points; }

DENSECRF_END
