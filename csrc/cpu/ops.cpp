// This SIMD level's table.
#include "cpu/ops.h"

#include "cpu/backends.h"

DENSECRF_BEGIN

namespace {

template <class T>
Ops<T> ops() {
  Ops<T> out{};
  out.make_features = make_features<T>;
  out.lattice_build = lattice_build<T>;
  out.lattice_features_grad = lattice_features_grad<T>;
  out.lattice_self = lattice_self<T>;
  out.filter_workspace = filter_workspace<T>;
  out.filter = filter<T>;
  out.lattice_norm = lattice_norm<T>;
  out.filter_weights_grad_workspace = filter_weights_grad_workspace<T>;
  out.filter_weights_grad = filter_weights_grad<T>;
  out.grid_filter_workspace = grid_filter_workspace<T>;
  out.grid_filter = grid_filter<T>;
  out.exact_filter_workspace = exact_filter_workspace<T>;
  out.exact_filter = exact_filter<T>;
  out.mean_field_workspace = mean_field_workspace<T>;
  out.mean_field = mean_field<T>;
  out.mean_field_states = mean_field_states<T>;
  out.mean_field_backward_workspace = mean_field_backward_workspace<T>;
  out.mean_field_backward = mean_field_backward<T>;
  return out;
}

}  // namespace

#define DENSECRF_TEXT2(x) #x
#define DENSECRF_TEXT(x) DENSECRF_TEXT2(x)

const Backend& table() {
  static const Backend backend = {DENSECRF_TEXT(DENSECRF_ISA), ops<float>(), ops<double>()};
  return backend;
}

DENSECRF_END
