// The tables of all SIMD levels; which of them exist is the build's to say (DENSECRF_HAS_...).
#pragma once
#include "densecrf.h"

namespace densecrf {
namespace baseline {
const Backend& table();
}
namespace avx2 {
const Backend& table();
}
namespace avx512 {
const Backend& table();
}
}  // namespace densecrf
