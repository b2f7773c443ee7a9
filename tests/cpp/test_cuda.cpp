// The CUDA half, emulated, against the CPU's: the same lattices and grids, several schedules, workspaces of
// exactly the size that was asked for, with garbage in them and guards around every array.
#include "batch.h"

namespace {

// ---- lattice

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
  return report("test_cuda, emulated");
}
