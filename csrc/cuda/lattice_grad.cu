// The gradient of a lattice's features, through the barycentric weights.
#include "cuda/lattice_build.cuh"

DENSECRF_BEGIN

namespace {

template <class T, class C, int D>
__global__ void __launch_bounds__(kThreads)
    features_grad(int64_t points, const T* features, Elevation<C> elevation, const T* grad_weights,
                  T* grad_features) {
  const int64_t p = index_of_thread();
  if (p >= points) return;
  const int d = D ? D : elevation.dims;
  Simplex<C, D, 1> simplex;
  elevation.template locate<D>(features + p * d, &simplex);
  simplex.features_grad(d, 0, elevation.scales, grad_weights + p * (d + 1), grad_features + p * d);
}

}  // namespace

template <class T>
Status lattice_features_grad(const BuildRequest<T>& request, const T* grad_weights, T* grad_features,
                             Stream stream) {
  Queue queue(stream);
  const int64_t points = request.images * request.points;
  for_arithmetic(request, [&](auto arithmetic, auto dims) {
    using C = decltype(arithmetic);
    run_for(&queue, points, features_grad<T, C, decltype(dims)::value>, points, request.features,
            Elevation<C>(request.dims, request.scale), grad_weights, grad_features);
  });
  return queue.status();
}

template Status lattice_features_grad(const BuildRequest<float>&, const float*, float*, Stream);
template Status lattice_features_grad(const BuildRequest<double>&, const double*, double*, Stream);

DENSECRF_END
