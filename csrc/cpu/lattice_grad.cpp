// The gradient of a lattice's features, through the barycentric weights.
#include "core/simplex.h"
#include "cpu/blocks.h"
#include "cpu/extent.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"

DENSECRF_BEGIN

namespace {

template <class T, class C, int D>
void features_grad(const LatticeRequest<T>& request, const T* grad_weights, T* grad_features) {
  const int d = D ? D : request.dims;
  C scales[D ? D : kMaxDims];
  elevation_scales(d, request.scale, scales);
  parallel(request.threads, [&](Team& team, int thread) {
    const Range mine = band(request.points, team.size(), thread);
    Simplex<C, D, kLanes> block;
    T features[kLanes * (D ? D : kMaxDims)];
    for (int64_t first = mine.begin; first < mine.end; first += kLanes) {
      const int count = int(smaller<int64_t>(kLanes, mine.end - first));
      load_block(request.features + first * d, d, count, features);
      block.elevate(d, features, scales);
      block.locate(d);
      for (int n = 0; n < count; ++n) {
        const int64_t p = first + n;
        block.features_grad(d, n, scales, grad_weights + p * (d + 1), grad_features + p * d);
      }
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
    features_grad<T, double, 0>(request, grad_weights, grad_features);
  else if (request.dims == 5)  // the common case has its own code
    features_grad<T, float, 5>(request, grad_weights, grad_features);
  else
    features_grad<T, float, 0>(request, grad_weights, grad_features);
  return Status::kOk;
}

template Status lattice_features_grad(const LatticeRequest<float>&, const float*, float*);
template Status lattice_features_grad(const LatticeRequest<double>&, const double*, double*);

DENSECRF_END
