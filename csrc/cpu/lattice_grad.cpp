// The gradient of a lattice's features, through the barycentric weights.
#include "core/simplex.h"
#include "cpu/extent.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"

DENSECRF_BEGIN

namespace {

template <class T, class C>
void features_grad(const LatticeRequest<T>& request, const T* grad_weights, T* grad_features) {
  const int d = request.dims;
  C scales[kMaxDims];
  elevation_scales(d, request.scale, scales);
  parallel(request.threads, [&](Team& team, int thread) {
    const Range mine = band(request.points, team.size(), thread);
    Simplex<C, 0, 1> simplex;
    for (int64_t p = mine.begin; p < mine.end; ++p) {
      simplex.elevate(d, request.features + p * d, scales);
      simplex.locate(d);
      simplex.features_grad(d, 0, scales, grad_weights + p * (d + 1), grad_features + p * d);
    }
  });
}

}  // namespace

template <class T>
Status lattice_features_grad(const LatticeRequest<T>& request, const T* grad_weights, T* grad_features) {
  Extent extent;
  Status status = elevated_extent(request, &extent);
  if (status != Status::kOk) return status;
  if (wants_double<T>(extent))
    features_grad<T, double>(request, grad_weights, grad_features);
  else
    features_grad<T, float>(request, grad_weights, grad_features);
  return Status::kOk;
}

template Status lattice_features_grad(const LatticeRequest<float>&, const float*, float*);
template Status lattice_features_grad(const LatticeRequest<double>&, const double*, double*);

DENSECRF_END
