// The emulation of CUDA: that it computes what a device would, and that it finds planted mistakes.
// clang-format off
#include "emulation/emu.h"  // first, as it stands before a kernel's source
// clang-format on

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <numeric>

#include "cuda/launch.cuh"
#include "support.h"

namespace {

using densecrf::cuda::Arena;

constexpr unsigned kSeeds = 5;

template <class... Parameters, class... Arguments>
bool runs(dim3 blocks, dim3 threads, size_t shared, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config{blocks, threads, shared, nullptr};
  return cudaLaunchKernelEx(&config, kernel, arguments...) == cudaSuccess;
}
bool complains_of(const char* what) { return emulation::complaint().find(what) != std::string::npos; }

// ---- what is right

__global__ void sum_warps(const int* in, int* sums, unsigned* votes, int* total) {
  int sum = in[blockIdx.x * blockDim.x + threadIdx.x], down = sum;
  const int own = sum;
  for (int step = 16; step; step /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, step);
    down += __shfl_down_sync(0xffffffffu, down, unsigned(step));
  }
  const unsigned odd = __ballot_sync(0xffffffffu, own & 1);
  if (threadIdx.x % 32) return;
  const int warp = int(blockIdx.x * blockDim.x + threadIdx.x) / 32;
  sums[warp] = sum == down ? sum : -1;
  votes[warp] = odd;
  atomicAdd(total, sum);
}

void test_warps() {
  std::vector<int> in(3 * 128);
  std::iota(in.begin(), in.end(), 7);
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    emulation::set_seed(seed);
    std::vector<int> sums(12);
    std::vector<unsigned> votes(12);
    int total = 0;
    CHECK(runs(3, 128, 0, sum_warps, in.data(), sums.data(), votes.data(), &total));
    for (int w = 0; w < 12; ++w) {
      CHECK(sums[w] == std::accumulate(&in[32 * w], &in[32 * w] + 32, 0));
      CHECK(votes[w] == 0x55555555u);
    }
    CHECK(total == std::accumulate(in.begin(), in.end(), 0));
  }
}

__global__ void count_places(int* counts) {
  const unsigned x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  const unsigned z = blockIdx.z * blockDim.z + threadIdx.z;
  ++counts[(z * gridDim.y * blockDim.y + y) * gridDim.x * blockDim.x + x];
}

void test_places() {
  std::vector<int> counts(6 * 20 * 21);
  CHECK(runs(dim3(2, 4, 7), dim3(3, 5, 3), 0, count_places, counts.data()));
  for (int count : counts) CHECK(count == 1);
  CHECK(!runs(0, 32, 0, count_places, counts.data()));
  CHECK(!runs(1, 2048, 0, count_places, counts.data()));
  CHECK(!runs(dim3(1, 65536), 1, 0, count_places, counts.data()));
}

// ---- planted mistakes

// Every block reverses its stretch by way of memory that it shares.
template <bool BARRIER>
__global__ void reverse(const int* in, int* out) {
  __shared__ int values[256];
  const unsigned at = blockIdx.x * 256, i = threadIdx.x;
  values[i] = in[at + i];
  if (BARRIER) __syncthreads();
  out[at + i] = values[255 - i];
}
template <bool BARRIER>
__global__ void reverse_warps(const int* in, int* out) {
  int* values = reinterpret_cast<int*>(emulation::dynamic_shared());
  const unsigned i = threadIdx.x, lane = i % 32;
  values[i] = in[i];
  if (BARRIER) __syncwarp();
  out[i] = values[i - lane + 31 - lane];
}

void test_missing_barrier() {
  std::vector<int> in(1024), wanted(1024), wanted_of_warps(1024);
  std::iota(in.begin(), in.end(), 1);
  for (int i = 0; i < 1024; ++i) {
    wanted[i] = in[i / 256 * 256 + 255 - i % 256];
    wanted_of_warps[i] = in[i / 32 * 32 + 31 - i % 32];
  }
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    emulation::set_seed(seed);
    std::vector<int> out(1024);
    CHECK(runs(4, 256, 0, reverse<true>, in.data(), out.data()));
    CHECK(out == wanted);
    CHECK(runs(4, 256, 0, reverse<false>, in.data(), out.data()));
    CHECK(out != wanted);
    CHECK(runs(1, 1024, 4096, reverse_warps<true>, in.data(), out.data()));
    CHECK(out == wanted_of_warps);
    CHECK(runs(1, 1024, 4096, reverse_warps<false>, in.data(), out.data()));
    CHECK(out != wanted_of_warps);
  }
}

__global__ void some_threads_wait(unsigned how_many) {
  if (threadIdx.x < how_many) __syncthreads();
}
__global__ void threads_wait_apart(unsigned border) {
  if (threadIdx.x < border) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void half_a_warp_waits() {
  if (threadIdx.x < 16) __syncwarp();
}

void test_divergent_barrier() {
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    emulation::set_seed(seed);
    CHECK(runs(2, 64, 0, some_threads_wait, 64u));
    CHECK(runs(2, 64, 0, some_threads_wait, 0u));
    for (unsigned threads : {1u, 32u, 63u}) {
      CHECK(!runs(2, 64, 0, some_threads_wait, threads));
      CHECK(complains_of("divergent barrier") && complains_of("not at any"));
      CHECK(!runs(2, 64, 0, threads_wait_apart, threads));
      CHECK(complains_of("divergent barrier") && complains_of("test_emulation.cpp"));
    }
    CHECK(!runs(1, 32, 0, half_a_warp_waits));
    CHECK(complains_of("a warp barrier"));
  }
}

__global__ void fill(int count, int* out) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = i;
}
__global__ void fill_shared(int count) {
  int* values = reinterpret_cast<int*>(emulation::dynamic_shared());
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) values[i] = i;
}

// In a process of its own: an address sanitizer ends it.
template <class Body>
bool fails_in_child(Body body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    dup2(open("/dev/null", O_WRONLY),
         2);  // a sanitizer's report of what is planted would look like a failure
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

void test_write_beyond() {
  for (int count : {1, 63, 64, 65}) {
    const auto fills = [count](int written) {
      Arena measure(nullptr);
      measure.take<int>(count);
      measure.take<int>(count);
      std::vector<char> workspace(measure.bytes());
      Arena arena(workspace.data());
      int* first = arena.take<int>(count);
      arena.take<int>(count);
      const bool fine = runs(2, 64, 0, fill, written, first);
      emulation::forget_guards();
      return fine;
    };
    CHECK(fills(count));
    CHECK(!fails_in_child([&] { return fills(count); }));
    CHECK(fails_in_child([&] { return fills(count + 1); }));
  }
  CHECK(runs(1, 32, 400, fill_shared, 100));
  CHECK(!runs(1, 32, 400, fill_shared, 101));
  CHECK(complains_of("shared memory"));
}

}  // namespace

int main() {
  test_warps();
  test_places();
  test_missing_barrier();
  test_divergent_barrier();
  test_write_beyond();
  return report("test_emulation");
}
