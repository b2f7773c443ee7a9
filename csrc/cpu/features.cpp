// Positions and channels divided by their bandwidths: the features of the Gaussian kernels (Kraehenbuehl &
// Koltun 2011, equation 3).
#include "cpu/buffer.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"

DENSECRF_BEGIN

namespace {

template <class T, class Pixel>
void features_of_rows(const FeatureRequest<T>& r, const Pixel* image, Range rows) {
  const int64_t height = r.size[1], width = r.size[2];
  const int d = r.spatial + r.channels;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const T y = T(row % height) / r.spatial_sigma[1], z = T(row / height) / r.spatial_sigma[2];
    const Pixel* pixel = image + row * width * r.channels;
    T* f = r.features + row * width * d;
    for (int64_t x = 0; x < width; ++x, f += d, pixel += r.channels) {
      if (r.spatial > 0) f[0] = T(x) / r.spatial_sigma[0];
      if (r.spatial > 1) f[1] = y;
      if (r.spatial > 2) f[2] = z;
      for (int c = 0; c < r.channels; ++c) f[r.spatial + c] = T(pixel[c]) / r.channel_sigma[c];
    }
  }
}

}  // namespace

template <class T>
Status make_features(const FeatureRequest<T>& r) {
  parallel(r.threads, [&](Team& team, int thread) {
    Range rows = band(r.size[0] * r.size[1], team.size(), thread);
    if (r.image_is_uint8)
      features_of_rows(r, static_cast<const uint8_t*>(r.image), rows);
    else
      features_of_rows(r, static_cast<const T*>(r.image), rows);
  });
  return Status::kOk;
}

template Status make_features(const FeatureRequest<float>&);
template Status make_features(const FeatureRequest<double>&);

DENSECRF_END
