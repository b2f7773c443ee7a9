// An image's features as an array.
#include "cpu/ops.h"
#include "cpu/parallel.h"
#include "cpu/pixels.h"

DENSECRF_BEGIN

template <class T>
Status make_features(const ImageView<T>& image, int threads, T* features) {
  Buffer<T> blocks;
  const int dims = image.spatial + image.channels;  // any number
  if (!blocks.resize(int64_t(threads) * dims * kLanes)) return Status::kOutOfMemory;
  const int64_t points = image.size[0] * image.size[1] * image.size[2];
  parallel(threads, [&](Team& team, int thread) {
    const Range mine = band(points, team.size(), thread);
    T* block = blocks.data() + int64_t(thread) * dims * kLanes;
    for (int64_t first = mine.begin; first < mine.end; first += kLanes) {
      const int count = int(smaller<int64_t>(kLanes, mine.end - first));
      load_pixels(image, first, count, block);
      transpose(dims, count, block, kLanes, features + first * dims, dims, AsIs());
    }
  });
  return Status::kOk;
}

template Status make_features(const ImageView<float>&, int, float*);
template Status make_features(const ImageView<double>&, int, double*);

DENSECRF_END
