// Namespace and qualifiers shared by everything that is compiled once per SIMD level (and, later, for the
// device).
#pragma once

// Each SIMD level lives in its own namespace: the same inline function compiled for AVX-512 and for baseline
// must not be merged by the linker, or a machine without AVX-512 would run the wrong one.
#ifndef DENSECRF_ISA
#define DENSECRF_ISA baseline
#endif
#define DENSECRF_BEGIN \
  namespace densecrf { \
  namespace DENSECRF_ISA {
#define DENSECRF_END \
  }                  \
  }

#if defined(__CUDACC__)
#define DENSECRF_HD __host__ __device__ __forceinline__
#else
#define DENSECRF_HD inline
#endif
