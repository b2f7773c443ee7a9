// The CUDA half, emulated, against the CPU's: the same lattices and grids, several schedules, workspaces of
// exactly the size that was asked for, with garbage in them and guards around every array.
#include <algorithm>
#include <numeric>

#include "schedules.h"

namespace {

// ---- lattice

// Some lattices of images with as many points each, as one.
template <class T>
struct Batch {
  std::vector<Lattice<T>> images;
  std::vector<T> weights;
  std::vector<int32_t> corner, sorted, starts, neighbours;
  cuda::Lattice<T> view{};

  // `spread` of each image's features: points of a narrow one share a few simplices.
  Batch(std::mt19937& rng, int64_t points, int d, const std::vector<double>& spread) : images(spread.size()) {
    int64_t vertices = 0;
    for (size_t b = 0; b < images.size(); ++b) {
      Lattice<T>& image = images[b];
      CHECK(image.build(random_values<T>(rng, points * d, 0, spread[b]), d, b % 2, b % 2 == 0, 1) ==
            Status::kOk);
      weights.insert(weights.end(), image.weights.begin(), image.weights.end());
      for (int64_t e = 0; e < points * (d + 1); ++e) {
        const int64_t simplex = image.simplex[e / (d + 1)];
        corner.push_back(int32_t(vertices + image.simplex_vertices[simplex * (d + 1) + e % (d + 1)]));
      }
      vertices += image.view.vertices;
    }
    sort_entries(vertices);
    link(vertices, d);
    view = {int(images.size()),
            points,
            d,
            vertices,
            weights.data(),
            corner.data(),
            sorted.data(),
            starts.data(),
            neighbours.data(),
            images[0].view.blur,
            images[0].view.alpha};
  }

  std::vector<T> on_cpu(int channels, const std::vector<T>& values, bool transpose) const {
    std::vector<T> out(values.size());
    for (size_t b = 0; b < images.size(); ++b) {
      const LatticeView<T>& image = images[b].view;
      const size_t at = b * size_t(channels * image.points);
      std::vector<char> workspace(ops<T>().filter_workspace(image, channels, 1));
      CHECK(ops<T>().filter(image, channels, &values[at], &out[at], transpose, 1, workspace.data()) ==
            Status::kOk);
    }
    return out;
  }

 private:
  void sort_entries(int64_t vertices) {
    sorted.resize(corner.size());
    std::iota(sorted.begin(), sorted.end(), 0);
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](int32_t a, int32_t b) { return corner[a] < corner[b]; });
    for (int64_t v = 0, e = 0; v <= vertices; ++v) {
      while (e < int64_t(sorted.size()) && corner[sorted[e]] < v) ++e;
      starts.push_back(int32_t(e));
    }
  }
  void link(int64_t vertices, int d) {
    neighbours.assign(2 * (d + 1) * vertices, -1);
    int64_t before = 0;
    for (const Lattice<T>& image : images) {
      for (int axis = 0; axis <= d; ++axis) {
        int32_t* of_axis = &neighbours[2 * (axis * vertices + before)];
        for (int64_t i = image.chain_starts[axis]; i < image.chain_starts[axis + 1]; ++i) {
          const int32_t lower = image.chains[i];
          if (lower < 0) continue;  // the last of its chain
          const int32_t next = image.chains[i + 1], upper = next < 0 ? ~next : next;
          of_axis[2 * lower + 1] = int32_t(before + upper);
          of_axis[2 * upper] = int32_t(before + lower);
        }
      }
      before += image.view.vertices;
    }
  }
};

template <class T>
void check_filter(std::mt19937& rng, const Batch<T>& batch, int channels) {
  const size_t size = batch.view.images * batch.view.points * channels;
  const auto values = random_values<T>(rng, size, -1, 1);
  for (bool transpose : {false, true}) {
    const std::vector<T> wanted = batch.on_cpu(channels, values, transpose);
    Same<T> same;
    in_schedules(cuda::filter_workspace(batch.view, channels), [&](void* workspace) {
      std::vector<T> out(size, T(-7));
      CHECK(cuda::filter(batch.view, channels, values.data(), out.data(), transpose, workspace, nullptr) ==
            Status::kOk);
      CHECK(near(out, wanted, rounding<T>() / 10));
      same.add(out);
    });
  }
}

template <class T>
void test_lattices() {
  std::mt19937 rng(11);
  for (int d : {1, 2, 3, 5, 6, 9}) {
    const Batch<T> one(rng, 97, d, {3.0}), three(rng, 40, d, {0.05, 4.0, 1.0});
    for (int channels : {1, 3, 21, 40}) {
      check_filter(rng, one, channels);
      check_filter(rng, three, channels);
    }
  }
  const Batch<T> single(rng, 1, 5, {1.0}), many(rng, 5, 2, std::vector<double>(9, 1.0));
  const Batch<T> wide(rng, 9, kMaxDims, {1.0});
  check_filter(rng, single, 2);
  check_filter(rng, many, 5);
  check_filter(rng, wide, 4);
  check_filter(rng, many, 1100);  // more packs than a block has threads
}

// ---- grid

template <class T>
std::vector<T> on_cpu(const GridView<T>& grid, int images, int channels, const std::vector<T>& values) {
  std::vector<T> out(values.size());
  const size_t each = values.size() / size_t(images);
  std::vector<char> workspace(ops<T>().grid_filter_workspace(grid, channels, 1));
  for (size_t at = 0; at < values.size(); at += each)
    CHECK(ops<T>().grid_filter(grid, channels, &values[at], &out[at], 1, workspace.data()) == Status::kOk);
  return out;
}

template <class T>
void test_grids() {
  std::mt19937 rng(13);
  for (Grid<T>& grid : grids<T>()) {
    for (T& tap : grid.taps[1]) tap *= T(0.75);  // also where there is one only
    for (int images : {1, 3}) {
      for (int channels : {1, 3, 21, 40}) {
        const auto values = random_values<T>(rng, size_t(images * channels * grid.points()), -1, 1);
        const std::vector<T> wanted = on_cpu(grid.view, images, channels, values);
        Same<T> same;
        in_schedules(cuda::grid_filter_workspace(grid.view, images, channels), [&](void* workspace) {
          std::vector<T> out(values.size(), T(-7));
          CHECK(cuda::grid_filter(grid.view, images, channels, values.data(), out.data(), workspace,
                                  nullptr) == Status::kOk);
          CHECK(near(out, wanted, rounding<T>() / 10));
          same.add(out);
        });
      }
    }
  }
}

// ---- errors

// What goes wrong at the first launch comes back, and nothing is launched after it.
void test_errors() {
  // No device has blocks for so many channels.
  const Grid<float> grid({1, 1, 1}, {1, 1, 1}, {0, 0, 0});
  const int channels = 32 * 65535 + 1;
  std::vector<char> workspace(cuda::grid_filter_workspace(grid.view, 1, channels));
  std::vector<float> values(channels), out(channels, 5.0f);
  CHECK(cuda::grid_filter(grid.view, 1, channels, values.data(), out.data(), workspace.data(), nullptr) ==
        Status(int(Status::kDevice) + int(cudaErrorInvalidConfiguration)));
  CHECK(out == std::vector<float>(channels, 5.0f));
  emulation::forget_guards();
}

template <class T>
void test_all() {
  test_lattices<T>();
  test_grids<T>();
}

}  // namespace

int main() {
  test_all<float>();
  test_all<double>();
  test_errors();
  if (!emulation::complaint().empty()) std::printf("last launch: %s\n", emulation::complaint().c_str());
  std::printf("test_cuda, emulated: %s\n", failures ? "failed" : "all is well");
  return failures ? 1 : 0;
}
