// Launches on the caller's stream.
#pragma once
#include "core/arena.h"
#include "cuda/status.h"

DENSECRF_BEGIN

// Work queued on a stream, up to the first error.
class Queue {
 public:
  explicit Queue(Stream stream) : stream_(stream) {}
  Stream stream() const { return stream_; }
  Status status() const { return status_; }

  template <class... Parameters, class... Arguments>
  void run(dim3 blocks, dim3 threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
    if (status_ != Status::kOk || blocks.x == 0) return;
    cudaLaunchConfig_t config{};
    config.gridDim = blocks;
    config.blockDim = threads;
    config.stream = stream_;
    check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
  }
  void fill(void* at, int byte, size_t bytes) {
    if (status_ == Status::kOk) check(cudaMemsetAsync(at, byte, bytes, stream_));
  }
  void check(cudaError_t error) { check(status_of(error)); }
  void check(Status status) {
    if (status_ == Status::kOk) status_ = status;
  }

 private:
  Stream stream_;
  Status status_ = Status::kOk;
};

inline unsigned blocks_for(int64_t items, int64_t of_a_block) {
  return unsigned((items + of_a_block - 1) / of_a_block);
}

// The second and third size of a grid of blocks end here; kernels stride over what lies beyond.
constexpr int kMostBlocksYZ = 65535;
inline unsigned strided_blocks(int64_t items) {
  return unsigned(items < kMostBlocksYZ ? items : kMostBlocksYZ);
}

DENSECRF_END
