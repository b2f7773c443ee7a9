// Positions and channels divided by their bandwidths: the features of the Gaussian kernels (Kraehenbuehl &
// Koltun 2011, equation 3), and back.
#include "cuda/fold.cuh"
#include "cuda/lattice_build.cuh"

DENSECRF_BEGIN

namespace {

template <class T>
DENSECRF_HD int64_t points_of(const ImageFeatures<T>& r) {
  return r.size[0] * r.size[1] * r.size[2];
}

template <class T>
__global__ void __launch_bounds__(kThreads) make_features(ImageFeatures<T> r, T* features) {
  const int64_t i = index_of_thread(), points = points_of(r);
  if (i >= r.images * points) return;
  const int64_t image = i / points, p = i % points;
  T* f = features + i * (r.spatial + r.channels);
  int64_t rest = p;
  for (int k = 0; k < r.spatial; ++k) {
    const int64_t size = r.size[kGridAxes - 1 - k];
    f[k] = T(rest % size) / r.sigma[r.spatial - 1 - k];
    rest /= size;
  }
  for (int c = 0; c < r.channels; ++c)
    f[r.spatial + c] = r.image[(image * r.channels + c) * points + p] / r.channel_sigma[c];
}

template <class T>
__global__ void __launch_bounds__(kThreads) image_grad(ImageFeatures<T> r, const T* grad, T* grad_image) {
  const int64_t i = index_of_thread(), points = points_of(r);
  if (i >= r.images * points) return;
  const int64_t image = i / points, p = i % points;
  const T* of_point = grad + i * (r.spatial + r.channels) + r.spatial;
  for (int c = 0; c < r.channels; ++c)
    grad_image[(image * r.channels + c) * points + p] = of_point[c] / r.channel_sigma[c];
}

// A feature falls by itself over its bandwidth when that grows by one.
template <class T>
struct SigmaFold {
  using Value = double;
  ImageFeatures<T> request;
  const T *features, *grad;
  T *grad_sigma, *grad_channel_sigma;

  DENSECRF_HD Value none() const { return 0; }
  DENSECRF_HD Value read(int64_t row, int column) const {
    const int64_t at = row * (request.spatial + request.channels) + column;
    return double(grad[at]) * double(features[at]);
  }
  DENSECRF_HD Value both(Value a, Value b) const { return a + b; }
  DENSECRF_HD void keep(int column, Value sum) const {
    const int axis = request.spatial - 1 - column, channel = column - request.spatial;
    if (axis >= 0)
      grad_sigma[axis] = T(sum) / -request.sigma[axis];
    else
      grad_channel_sigma[channel] = T(sum) / -request.channel_sigma[channel];
  }
};

template <class T>
struct SigmaSpace {
  double* partials;

  SigmaSpace(const ImageFeatures<T>& request, Arena* arena) {
    partials = arena->template take<double>(fold_values(request.spatial + request.channels));
  }
};

}  // namespace

template <class T>
Status image_features(const ImageFeatures<T>& request, T* features, Stream stream) {
  Queue queue(stream);
  run_for(&queue, request.images * points_of(request), make_features<T>, request, features);
  return queue.status();
}

template <class T>
size_t image_features_grad_workspace(const ImageFeatures<T>& request) {
  Arena arena(nullptr);
  SigmaSpace<T> space(request, &arena);
  return arena.bytes();
}

template <class T>
Status image_features_grad(const ImageFeatures<T>& request, const T* features, const T* grad, T* grad_image,
                           T* grad_sigma, T* grad_channel_sigma, void* workspace, Stream stream) {
  Arena arena(workspace);
  const SigmaSpace<T> space(request, &arena);
  const int64_t points = request.images * points_of(request);
  Queue queue(stream);
  if (grad_image) run_for(&queue, points, image_grad<T>, request, grad, grad_image);
  queue_fold(&queue, SigmaFold<T>{request, features, grad, grad_sigma, grad_channel_sigma}, points,
             request.spatial + request.channels, space.partials);
  return queue.status();
}

template Status image_features(const ImageFeatures<float>&, float*, Stream);
template Status image_features(const ImageFeatures<double>&, double*, Stream);
template size_t image_features_grad_workspace(const ImageFeatures<float>&);
template size_t image_features_grad_workspace(const ImageFeatures<double>&);
template Status image_features_grad(const ImageFeatures<float>&, const float*, const float*, float*, float*,
                                    float*, void*, Stream);
template Status image_features_grad(const ImageFeatures<double>&, const double*, const double*, double*,
                                    double*, double*, void*, Stream);

DENSECRF_END
