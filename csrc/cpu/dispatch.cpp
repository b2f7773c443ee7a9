// Chooses the SIMD level once, by what the processor has and what DENSECRF_SIMD allows.
#include <cstdlib>
#include <cstring>

#include "cpu/backends.h"

namespace densecrf {

namespace {

const Backend& choose() {
  const char* asked = std::getenv("DENSECRF_SIMD");
  [[maybe_unused]] bool any = !asked || !*asked, at_most_avx2 = any || !std::strcmp(asked, "avx2"),
                        at_most_avx512 = any || !std::strcmp(asked, "avx512");
#ifdef DENSECRF_HAS_AVX512
  if (at_most_avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma")) {
    return avx512::table();
  }
#endif
#ifdef DENSECRF_HAS_AVX2
  if ((at_most_avx2 || at_most_avx512) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    return avx2::table();
  }
#endif
  return baseline::table();
}

}  // namespace

const Backend& backend() {
  static const Backend& chosen = choose();
  return chosen;
}

}  // namespace densecrf
