// This SIMD level's table.
#include "cpu/ops.h"

#include "cpu/backends.h"

DENSECRF_BEGIN

namespace {

template <class T>
Ops<T> ops() {
  return {
      make_features<T>,        lattice_build<T>,    lattice_sizes, lattice_export,           lattice_free,
      lattice_self<T>,         filter_workspace<T>, filter<T>,     grid_filter_workspace<T>, grid_filter<T>,
      mean_field_workspace<T>, mean_field<T>};
}

}  // namespace

#define DENSECRF_TEXT2(x) #x
#define DENSECRF_TEXT(x) DENSECRF_TEXT2(x)

const Backend& table() {
  static const Backend backend = {DENSECRF_TEXT(DENSECRF_ISA), ops<float>(), ops<double>()};
  return backend;
}

DENSECRF_END
