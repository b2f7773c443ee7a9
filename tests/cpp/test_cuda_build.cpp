// Lattices built by the CUDA half, emulated, and the gradients through them, against the CPU's.
#include <algorithm>
#include <numeric>

#include "schedules.h"

namespace {

// ---- building

// Features of a few images with as many points each.
template <class T>
using Images = std::vector<std::vector<T>>;

template <class T>
std::vector<T> joined(const Images<T>& images) {
  std::vector<T> out;
  for (const auto& image : images) out.insert(out.end(), image.begin(), image.end());
  return out;
}

struct Options {
  bool pad_origin = false, bridges = false;
};
constexpr Options kAllOptions[] = {{false, false}, {false, true}, {true, false}, {true, true}};

// A lattice built on the device, with the checks that need no other.
template <class T>
struct Built {
  std::vector<T> features, weights;
  std::vector<int32_t> corner, sorted, starts, neighbours, found;
  cuda::BuildRequest<T> request{};
  cuda::Lattice<T> view{};

  Built(const Images<T>& images, int d, Options options) : features(joined(images)) {
    request.features = features.data();
    request.images = int(images.size());
    request.points = int64_t(images[0].size()) / d;
    request.dims = d;
    request.scale = (d + 1) * std::sqrt(2.0 / 3.0);
    request.pad_origin = options.pad_origin;
    request.bridges = options.bridges;
    find_extent();
  }
  int64_t entries() const { return request.images * request.points * (request.dims + 1); }

  void build() {
    CHECK(cuda::check_build(request) == Status::kOk);
    Same<T> same_weights;
    Same<int32_t> same_numbers;
    in_schedules(cuda::build_vertices_workspace(request), [&](void* workspace) {
      run(workspace);
      same_weights.add(weights);
      for (const auto* numbers : {&corner, &sorted, &starts, &neighbours, &found})
        all_numbers_.insert(all_numbers_.end(), numbers->begin(), numbers->end());
      same_numbers.add(all_numbers_);
      all_numbers_.clear();
    });
    const int d = request.dims;
    view = {request.images,
            request.points,
            d,
            int64_t(starts.size()) - 1,
            weights.data(),
            corner.data(),
            sorted.data(),
            starts.data(),
            neighbours.data(),
            T(0.5),
            T(1 / (1 + std::pow(2.0, -d)))};
    check_sorted();
  }

 private:
  void find_extent() {
    const int d = request.dims;
    in_schedules(cuda::build_extent_workspace(request), [&](void* workspace) {
      std::vector<T> extent(2 * d, T(-7));
      CHECK(cuda::build_extent(request, extent.data(), workspace, nullptr) == Status::kOk);
      std::copy_n(&extent[0], d, request.lo);
      std::copy_n(&extent[d], d, request.hi);
    });
    for (int j = 0; j < d; ++j) {
      T lo = features[j], hi = features[j];
      bool finite = true;
      for (size_t i = j; i < features.size(); i += d) {
        lo = std::fmin(lo, features[i]);
        hi = std::fmax(hi, features[i]);
        finite = finite && std::isfinite(features[i]);
      }
      const bool nan = std::isnan(request.lo[j]) && std::isnan(request.hi[j]);
      CHECK(finite ? request.lo[j] == lo && request.hi[j] == hi : nan);
    }
  }
  void run(void* workspace) {
    const int d = request.dims;
    weights.assign(entries(), T(-7));
    corner.assign(entries(), -7);
    sorted.assign(entries(), -7);
    found.assign(2, -7);
    CHECK(cuda::build_vertices(request, weights.data(), corner.data(), sorted.data(), found.data(), workspace,
                               nullptr) == Status::kOk);
    const int64_t vertices = int64_t(found[0]) + found[1];
    starts.assign(vertices + 1, -7);
    neighbours.assign(2 * (d + 1) * vertices, -7);
    CHECK(cuda::build_links(request, found[0], found[1], starts.data(), neighbours.data(), workspace,
                            nullptr) == Status::kOk);
  }
  // Entries lie by vertex, those of one in their order; bridges, which come last, have none.
  void check_sorted() {
    std::vector<int32_t> wanted(entries());
    std::iota(wanted.begin(), wanted.end(), 0);
    std::stable_sort(wanted.begin(), wanted.end(),
                     [&](int32_t a, int32_t b) { return corner[a] < corner[b]; });
    CHECK(sorted == wanted);
    for (int64_t v = 0; v < view.vertices; ++v) {
      CHECK((starts[v] < starts[v + 1]) == (v < found[0]));
      for (int32_t e = starts[v]; e < starts[v + 1]; ++e) CHECK(corner[sorted[e]] == v);
    }
    CHECK(starts.back() == entries());
  }

  std::vector<int32_t> all_numbers_;
};

// The CPU's lattices of the same images.
template <class T>
std::vector<Lattice<T>> on_cpu(const Images<T>& images, int d, Options options) {
  std::vector<Lattice<T>> out(images.size());
  for (size_t b = 0; b < images.size(); ++b)
    CHECK(out[b].build(images[b], d, options.pad_origin, options.bridges, 1) == Status::kOk);
  return out;
}

// What f(image, from, to) makes of each image's part of values that are so many for an image.
template <class T, class F>
std::vector<T> by_image(size_t images, const std::vector<T>& values, int64_t out_size, F f) {
  std::vector<T> out(images * size_t(out_size), T(-7));
  for (size_t b = 0; b < images; ++b)
    f(b, values.data() + b * (values.size() / images), out.data() + b * size_t(out_size));
  return out;
}

// The filter and its gradient on a built lattice, as on the CPU's.
template <class T>
void check_filter(std::mt19937& rng, const Built<T>& built, const std::vector<Lattice<T>>& cpu,
                  int channels) {
  const int64_t points = built.request.points;
  const auto values = random_values<T>(rng, cpu.size() * channels * points, -1, 1);
  const auto grad = random_values<T>(rng, values.size(), -1, 1);
  const auto wanted = by_image(cpu.size(), values, channels * points, [&](size_t b, const T* in, T* out) {
    std::vector<char> workspace(ops<T>().filter_workspace(cpu[b].view, channels, 1));
    CHECK(ops<T>().filter(cpu[b].view, channels, in, out, false, 1, workspace.data()) == Status::kOk);
  });
  in_schedules(cuda::filter_workspace(built.view, channels), [&](void* workspace) {
    std::vector<T> out(values.size(), T(-7));
    CHECK(cuda::filter(built.view, channels, values.data(), out.data(), false, workspace, nullptr) ==
          Status::kOk);
    CHECK(near(out, wanted, rounding<T>() / 10));
  });
  const int64_t entries = built.entries() / int64_t(cpu.size());
  const auto wanted_grad = by_image(cpu.size(), values, entries, [&](size_t b, const T* in, T* out) {
    std::vector<char> workspace(ops<T>().filter_weights_grad_workspace(cpu[b].view, channels, 1));
    CHECK(ops<T>().filter_weights_grad(cpu[b].view, channels, in, &grad[b * size_t(channels * points)], out,
                                       1, workspace.data()) == Status::kOk);
  });
  Same<T> same;
  in_schedules(cuda::filter_weights_grad_workspace(built.view, channels), [&](void* workspace) {
    std::vector<T> out(wanted_grad.size(), T(-7));
    CHECK(cuda::filter_weights_grad(built.view, channels, values.data(), grad.data(), out.data(), workspace,
                                    nullptr) == Status::kOk);
    CHECK(near(out, wanted_grad, rounding<T>() / 10));
    same.add(out);
  });
}

template <class T>
void check_features_grad(std::mt19937& rng, const Built<T>& built) {
  const auto& r = built.request;
  const auto grad = random_values<T>(rng, built.entries(), -1, 1);
  const int64_t size = r.points * r.dims;
  const auto wanted = by_image(r.images, grad, size, [&](size_t b, const T* in, T* out) {
    LatticeRequest<T> request{};
    request.features = &built.features[b * size_t(size)];
    request.points = r.points;
    request.dims = r.dims;
    request.scale = r.scale;
    request.threads = 1;
    CHECK(ops<T>().lattice_features_grad(request, in, out) == Status::kOk);
  });
  std::vector<T> out(wanted.size(), T(-7));
  CHECK(cuda::lattice_features_grad(r, grad.data(), out.data(), nullptr) == Status::kOk);
  CHECK(near(out, wanted, rounding<T>() / 10));
}

template <class T>
void check_images(std::mt19937& rng, const Images<T>& images, int d, Options options) {
  const std::vector<Lattice<T>> cpu = on_cpu(images, d, options);
  Built<T> built(images, d, options);
  built.build();
  int64_t vertices = 0;
  std::vector<T> weights;
  for (const Lattice<T>& image : cpu) {
    vertices += image.view.vertices;
    weights.insert(weights.end(), image.weights.begin(), image.weights.end());
  }
  CHECK(built.view.vertices == vertices);
  CHECK(built.weights == weights);
  check_filter(rng, built, cpu, 3);
  check_features_grad(rng, built);
}

template <class T>
Images<T> random_images(std::mt19937& rng, int64_t points, int d, const std::vector<double>& spreads) {
  Images<T> out;
  for (double spread : spreads)
    out.push_back(
        random_values<T>(rng, points * d, std::fmin(spread, 0.1 * spread), std::fmax(spread, 0.1 * spread)));
  return out;
}

template <class T>
void test_builds() {
  std::mt19937 rng(17);
  for (Options options : kAllOptions) {
    for (int d : {1, 2, 3, 5, 6, 9}) {
      check_images(rng, random_images<T>(rng, 70, d, {3.0}), d, options);
      check_images(rng, random_images<T>(rng, 300 / d, d, {0.05, 4.0, 1.0}), d, options);
    }
    check_images(rng, random_images<T>(rng, 3, kMaxDims, {1.0, 5.0}), kMaxDims, options);
    check_images(rng, random_images<T>(rng, 1, 5, {2.0}), 5, options);
    // The same point over and over.
    Images<T> same(2, std::vector<T>(5 * 40));
    for (size_t i = 0; i < same[0].size(); ++i) same[0][i] = same[1][i] = T(i % 5) / 3;
    check_images(rng, same, 5, options);
    // Below zero, where the origin is beyond the points.
    check_images(rng, random_images<T>(rng, 30, 3, {-3.0, -9.0}), 3, options);
  }
}

// How many vertices the CPU makes of an image, and the device of two like it.
template <class T>
int64_t count_vertices(const std::vector<T>& image, int d, Options options) {
  const int64_t vertices = on_cpu<T>({image}, d, options)[0].view.vertices;
  Built<T> built({image, image}, d, options);
  built.build();
  CHECK(built.view.vertices == 2 * vertices);
  return vertices;
}

// From where on an image is sparse, the origin's corners counted, too.
template <class T>
void test_sparse() {
  std::mt19937 rng(29);
  const int d = 3;
  const auto few = random_values<T>(rng, 4 * d, 1, 3);
  for (bool pad_origin : {false, true}) {
    const int64_t corners = count_vertices(few, d, {pad_origin, false});
    std::vector<int64_t> counts;
    for (int64_t points : {3 * corners - 2, 3 * corners - 1, 3 * corners}) {
      std::vector<T> image;
      for (int64_t i = 0; i < points * d; ++i) image.push_back(few[i % few.size()]);
      counts.push_back(count_vertices(image, d, {pad_origin, true}));
    }
    CHECK(counts[0] == counts[1] && counts[1] < counts[2]);
  }
}

// The origin is no vertex of points that are far away, however narrow their keys are.
template <class T>
void test_far_origin() {
  std::mt19937 rng(31);
  for (int far = -2000; far <= 2000; far += 500) {
    const auto image = random_values<T>(rng, 20, far, far + 4);
    CHECK(count_vertices(image, 1, {true, false}) ==
          count_vertices(image, 1, {false, false}) + (far ? 2 : 0));
  }
}

// Beyond what float arithmetic resolves, and beyond what keys of 64 and of 128 bits hold exactly.
template <class T>
void test_wide() {
  std::mt19937 rng(19);
  for (Options options : kAllOptions) {
    check_images(rng, random_images<T>(rng, 40, 2, {3e6}), 2, options);
    for (int d : {5, 7, 9}) check_images(rng, random_images<T>(rng, 20, d, {1e6, 4e6}), d, options);
    check_images(rng, random_images<T>(rng, 4, kMaxDims, {1e5, 3e5}), kMaxDims, options);
  }
}

template <class T>
Status status_of(std::vector<T> features) {
  return cuda::check_build(Built<T>({features}, 2, {}).request);
}

template <class T>
void test_refusals() {
  CHECK(status_of<T>({0, 1, 2, 3}) == Status::kOk);
  for (T bad : {T(NAN), T(INFINITY), T(-INFINITY)}) {
    CHECK(status_of<T>({0, 1, 2, bad}) == Status::kNotFinite);
    CHECK(status_of<T>({bad, 1, 2, 3, 4, 5}) == Status::kNotFinite);
  }
  CHECK(status_of<T>({0, 1, T(1e13), 3}) == Status::kRangeTooLarge);
  Built<T> many({{0, 1}}, 2, {});
  many.request.points = INT32_MAX / 3;
  CHECK(cuda::check_build(many.request) == Status::kTooManyVertices);
  many.request.points -= 1;
  CHECK(cuda::check_build(many.request) == Status::kOk);
  many.request.bridges = true;
  CHECK(cuda::check_build(many.request) == Status::kTooManyVertices);
}

// ---- features of images

template <class T>
void check_image_features(std::mt19937& rng, const std::vector<int64_t>& size, int spatial, int channels) {
  constexpr size_t kImages = 2;
  const int64_t points = size[0] * size[1] * size[2], d = spatial + channels;
  const auto image = random_values<T>(rng, kImages * channels * points, 0, 255);
  const auto sigma = random_values<T>(rng, spatial, 1, 60),
             channel_sigma = random_values<T>(rng, channels, 1, 20);
  const cuda::ImageFeatures<T> request{
      int(kImages), {size[0], size[1], size[2]}, spatial, channels, image.data(),
      sigma.data(), channel_sigma.data()};
  std::vector<T> features(kImages * points * d, T(-7));
  CHECK(cuda::image_features(request, features.data(), nullptr) == Status::kOk);
  ImageView<T> on_cpu{};
  on_cpu.spatial = spatial;
  on_cpu.channels = channels;
  on_cpu.channel_sigma = channel_sigma.data();
  std::copy(size.begin(), size.end(), on_cpu.size);
  for (int a = 0; a < kGridAxes; ++a) on_cpu.spatial_sigma[a] = a < spatial ? sigma[spatial - 1 - a] : T(1);
  const auto wanted = by_image(kImages, image, points * d, [&](size_t, const T* planes, T* out) {
    std::vector<T> pixels;
    for (int64_t i = 0; i < points * channels; ++i)
      pixels.push_back(planes[i % channels * points + i / channels]);
    on_cpu.image = pixels.data();
    CHECK(ops<T>().make_features(on_cpu, 1, out) == Status::kOk);
  });
  CHECK(features == wanted);

  const auto grad = random_values<T>(rng, features.size(), -1, 1);
  std::vector<T> image_wanted(image.size()), sigma_wanted(d);
  std::vector<double> sums(d);
  for (int64_t i = 0; i < int64_t(kImages) * points; ++i) {
    for (int k = 0; k < d; ++k) sums[k] += double(grad[i * d + k]) * double(features[i * d + k]);
    for (int c = 0; c < channels; ++c)
      image_wanted[(i / points * channels + c) * points + i % points] =
          grad[i * d + spatial + c] / channel_sigma[c];
  }
  for (int k = 0; k < d; ++k)
    sigma_wanted[k] =
        k < spatial ? T(sums[spatial - 1 - k]) / -sigma[k] : T(sums[k]) / -channel_sigma[k - spatial];
  Same<T> same;
  in_schedules(cuda::image_features_grad_workspace(request), [&](void* workspace) {
    std::vector<T> grad_image(image.size(), T(-7)), grad_sigma(d, T(-7));
    CHECK(cuda::image_features_grad(request, features.data(), grad.data(), grad_image.data(), &grad_sigma[0],
                                    grad_sigma.data() + spatial, workspace, nullptr) == Status::kOk);
    CHECK(grad_image == image_wanted);
    CHECK(near(grad_sigma, sigma_wanted, rounding<T>() / 10));
    same.add(grad_sigma);
  });
}

template <class T>
void test_image_features() {
  std::mt19937 rng(23);
  check_image_features<T>(rng, {1, 13, 31}, 2, 3);
  check_image_features<T>(rng, {1, 1, 50}, 1, 1);
  check_image_features<T>(rng, {5, 6, 7}, 3, 2);
  check_image_features<T>(rng, {1, 4, 5}, 2, 0);
  check_image_features<T>(rng, {1, 40, 40}, 2, 58);  // more rows than a fold has threads
}

template <class T>
void test_all() {
  test_builds<T>();
  test_sparse<T>();
  test_far_origin<T>();
  test_wide<T>();
  test_refusals<T>();
  test_image_features<T>();
}

}  // namespace

int main() {
  test_all<float>();
  test_all<double>();
  if (!emulation::complaint().empty()) std::printf("last launch: %s\n", emulation::complaint().c_str());
  return report("test_cuda_build, emulated");
}
