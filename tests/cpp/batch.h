// Lattices of a batch, from those that the CPU builds of its images.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "schedules.h"

namespace {

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

}  // namespace
