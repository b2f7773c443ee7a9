// The extent of the features of a build.
#pragma once
#include "core/extent.h"
#include "cpu/buffer.h"
#include "cpu/parallel.h"

DENSECRF_BEGIN

// Smallest and largest value of each column.
template <class T>
struct ColumnExtent {
  T lo[kMaxDims], hi[kMaxDims];
  bool finite;
};

template <class T>
ColumnExtent<T> extent_of_rows(const T* values, int columns, Range rows) {
  constexpr int kTogether = 64 / int(sizeof(T));  // rows: full vectors, whatever the columns
  T low[kTogether * kMaxDims], high[kTogether * kMaxDims], bad[kTogether * kMaxDims];
  const int step = kTogether * columns;
  for (int j = 0; j < step; ++j) {
    low[j] = high[j] = values[rows.begin * columns + j % columns];
    bad[j] = 0;
  }
  for (int64_t i = rows.begin * columns; i < rows.end * columns; i += step) {
    const T* f = values + i;
    const int count = int(smaller<int64_t>(step, rows.end * columns - i));
    for (int j = 0; j < count; ++j) {
      low[j] = smaller(low[j], f[j]);
      high[j] = larger(high[j], f[j]);
      bad[j] = T(bad[j] + T(f[j] - f[j]));  // x - x is 0, or NaN where x is not finite
    }
  }
  ColumnExtent<T> out;
  out.finite = true;
  for (int j = 0; j < step; ++j) {
    out.lo[j % columns] = j < columns ? low[j] : smaller(out.lo[j % columns], low[j]);
    out.hi[j % columns] = j < columns ? high[j] : larger(out.hi[j % columns], high[j]);
    out.finite = out.finite && bad[j] == 0;
  }
  return out;
}

// lo, hi: [columns] of values [rows, columns]
template <class T>
Status column_extent(const T* values, int64_t rows, int columns, int threads, T* lo, T* hi) {
  Buffer<ColumnExtent<T>> found;
  const int parts = int(smaller<int64_t>(threads, rows));
  if (!found.resize(parts)) return Status::kOutOfMemory;
  int size = 1;
  parallel(parts, [&](Team& team, int thread) {
    if (thread == 0) size = team.size();
    found[thread] = extent_of_rows(values, columns, band(rows, team.size(), thread));
  });
  bool finite = true;
  for (int i = 0; i < size; ++i) {
    finite = finite && found[i].finite;
    for (int j = 0; j < columns; ++j) {
      lo[j] = i == 0 ? found[i].lo[j] : smaller(lo[j], found[i].lo[j]);
      hi[j] = i == 0 ? found[i].hi[j] : larger(hi[j], found[i].hi[j]);
    }
  }
  return finite ? Status::kOk : Status::kNotFinite;
}

// Of the features of an image's pixels; over a bandwidth values keep their order.
template <class T, class Pixel>
Status pixel_extent(const ImageView<T>& image, int threads, T* lo, T* hi) {
  const int64_t pixels = image.size[0] * image.size[1] * image.size[2];
  Pixel least[kMaxDims], most[kMaxDims];
  if (image.channels > 0) {
    const Status status =
        column_extent(static_cast<const Pixel*>(image.image), pixels, image.channels, threads, least, most);
    if (status != Status::kOk) return status;
  }
  for (int j = 0; j < image.spatial; ++j) {
    lo[j] = 0;
    hi[j] = T(image.size[kGridAxes - 1 - j] - 1) / image.spatial_sigma[j];
  }
  bool finite = true;
  for (int c = 0; c < image.channels; ++c) {
    const int j = image.spatial + c;
    lo[j] = T(least[c]) / image.channel_sigma[c];
    hi[j] = T(most[c]) / image.channel_sigma[c];
    finite = finite && hi[j] - hi[j] == 0 && lo[j] - lo[j] == 0;
  }
  return finite ? Status::kOk : Status::kNotFinite;
}

template <class T>
Status feature_extent(const LatticeRequest<T>& request, T* lo, T* hi) {
  if (!request.image)
    return column_extent(request.features, request.points, request.dims, request.threads, lo, hi);
  return request.image->image_is_uint8 ? pixel_extent<T, uint8_t>(*request.image, request.threads, lo, hi)
                                       : pixel_extent<T, T>(*request.image, request.threads, lo, hi);
}

template <class T>
Status elevated_extent(const LatticeRequest<T>& request, Extent* extent) {
  T least[kMaxDims], most[kMaxDims];
  const Status status = feature_extent(request, least, most);
  if (status != Status::kOk) return status;
  double lo[kMaxDims], hi[kMaxDims];
  for (int j = 0; j < request.dims; ++j) {
    lo[j] = request.pad_origin ? smaller(0.0, double(least[j])) : double(least[j]);
    hi[j] = request.pad_origin ? larger(0.0, double(most[j])) : double(most[j]);
  }
  *extent = elevated_extent(request.dims, request.scale, lo, hi);
  return check_extent(*extent);
}

DENSECRF_END
