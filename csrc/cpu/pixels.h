// The features of an image's pixels, a block at a time.
#pragma once
#include "cpu/blocks.h"
#include "cpu/buffer.h"

DENSECRF_BEGIN

template <class T>
class PixelFeatures {
 public:
  // Works out every quotient that comes up more than once.
  bool init(const ImageView<T>& image) {
    image_ = image;
    const int64_t width = image.size[2], tables = image.image_is_uint8 ? image.channels : 0;
    if (!x_.resize(width) || !levels_.resize(tables * kLevels)) return false;
    for (int64_t i = 0; i < width; ++i) x_[i] = T(i) / image.spatial_sigma[0];
    for (int64_t i = 0; i < levels_.size(); ++i)
      levels_[i] = T(i % kLevels) / image.channel_sigma[i / kLevels];
    return true;
  }

  // As load_block does.
  void load(int64_t first, int count, T* block) const {
    const int64_t width = image_.size[2];
    for (int done = 0; done < count;) {
      const int64_t row = (first + done) / width, x = (first + done) % width;
      const int some = int(smaller<int64_t>(count - done, width - x));
      load_positions(row, x, some, block + done);
      if (image_.image_is_uint8)
        load_channels(static_cast<const uint8_t*>(image_.image), first + done, some, block + done);
      else
        load_channels(static_cast<const T*>(image_.image), first + done, some, block + done);
      done += some;
    }
    fill_block(image_.spatial + image_.channels, count, block);
  }

 private:
  static constexpr int kLevels = 256;

  void load_positions(int64_t row, int64_t x, int count, T* block) const {
    const int64_t height = image_.size[1];
    const T y = T(row % height) / image_.spatial_sigma[1], z = T(row / height) / image_.spatial_sigma[2];
    for (int n = 0; n < count && image_.spatial > 0; ++n) block[n] = x_[x + n];
    for (int n = 0; n < count && image_.spatial > 1; ++n) block[kLanes + n] = y;
    for (int n = 0; n < count && image_.spatial > 2; ++n) block[2 * kLanes + n] = z;
  }
  template <class Pixel>
  void load_channels(const Pixel* image, int64_t first, int count, T* block) const {
    const Pixel* pixels = image + first * image_.channels;
    for (int c = 0; c < image_.channels; ++c) {
      T* to = block + (image_.spatial + c) * kLanes;
      for (int n = 0; n < count; ++n) to[n] = over_bandwidth(c, pixels[n * image_.channels + c]);
    }
  }
  T over_bandwidth(int channel, uint8_t level) const { return levels_[channel * kLevels + level]; }
  T over_bandwidth(int channel, T value) const { return value / image_.channel_sigma[channel]; }

  ImageView<T> image_ = {};
  Buffer<T> x_, levels_;  // [W], and [channels, kLevels] of an image of 8 bits
};

DENSECRF_END
