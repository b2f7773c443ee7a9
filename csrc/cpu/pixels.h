// The features of an image's pixels, a block at a time.
#pragma once
#include "cpu/blocks.h"
#include "cpu/buffer.h"

DENSECRF_BEGIN

template <class T>
inline void load_positions(const ImageView<T>& image, int64_t row, int64_t x, int count, T* block) {
  const int64_t height = image.size[1];
  const T y = T(row % height) / image.spatial_sigma[1], z = T(row / height) / image.spatial_sigma[2];
  for (int n = 0; n < count && image.spatial > 0; ++n) block[n] = T(x + n) / image.spatial_sigma[0];
  for (int n = 0; n < count && image.spatial > 1; ++n) block[kLanes + n] = y;
  for (int n = 0; n < count && image.spatial > 2; ++n) block[2 * kLanes + n] = z;
}

template <class T, class Pixel>
inline void load_channels(const ImageView<T>& image, const Pixel* pixels, int count, T* block) {
  for (int c = 0; c < image.channels; ++c) {
    T* to = block + (image.spatial + c) * kLanes;
    for (int n = 0; n < count; ++n) to[n] = T(pixels[n * image.channels + c]) / image.channel_sigma[c];
  }
}

// As load_block does.
template <class T>
inline void load_pixels(const ImageView<T>& image, int64_t first, int count, T* block) {
  const int64_t width = image.size[2];
  for (int done = 0; done < count;) {
    const int64_t pixel = first + done, x = pixel % width;
    const int some = int(smaller<int64_t>(count - done, width - x));
    load_positions(image, pixel / width, x, some, block + done);
    if (image.image_is_uint8)
      load_channels(image, static_cast<const uint8_t*>(image.image) + pixel * image.channels, some,
                    block + done);
    else
      load_channels(image, static_cast<const T*>(image.image) + pixel * image.channels, some, block + done);
    done += some;
  }
  fill_block(image.spatial + image.channels, count, block);
}

DENSECRF_END
