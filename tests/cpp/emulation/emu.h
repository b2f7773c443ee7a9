// Runs CUDA kernels on the CPU, for tests: the .cu files are compiled unchanged, with this header in front.
//
// A block's threads are fibers of one operating system thread.  A schedule is legal but unkind: a warp runs
// as far as it can, to a barrier or its end, before the next one is looked at, and so does each lane of a
// warp; a seed other than 0 shuffles blocks, warps and lanes.  So a kernel that lacks a barrier reads what is
// not there yet.  A launch that goes wrong (threads of a block at different barriers, a write beyond an array
// of the workspace or of shared memory) returns an error, as on a device, and complaint() says what was
// wrong.
//
// x86-64 only.  A thread that spins until another one of its block writes would spin forever.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#define DENSECRF_EMULATED 1
#define DENSECRF_ISA cuda
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after the other

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- the part of the runtime that the project calls

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorLaunchFailure = 719
};
using cudaStream_t = struct CUstream_st*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* at, int byte, size_t bytes, cudaStream_t) {
  std::memset(at, byte, bytes);
  return cudaSuccess;
}

namespace emulation {

int lane();
unsigned char* dynamic_shared();

// The schedule of all launches to come.
void set_seed(unsigned seed);
// Bytes that no kernel may write to, looked at after every launch; poisoned under AddressSanitizer.
void guard(void* at, size_t bytes);
void forget_guards();
// What was wrong with the last launch; empty if nothing was.
const std::string& complaint();

cudaError_t launch(const cudaLaunchConfig_t& config, const std::function<void()>& body);
void block_barrier(const char* file, int line);
void warp_barrier(uint32_t mask);
// What a lane offers the others of its warp.
void offer(uint64_t value);
uint64_t offered(int lane);  // 0 for a lane that the warp does not have

}  // namespace emulation

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? emulation::complaint().c_str() : "emulated error";
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return emulation::launch(*config, [&] { kernel(Parameters(arguments)...); });
}

// ---- what kernels call

inline uint3 threadIdx{}, blockIdx{};  // of the thread that runs
inline dim3 blockDim, gridDim;
#define __syncthreads() emulation::block_barrier(__FILE__, __LINE__)

inline void __syncwarp(uint32_t mask = 0xffffffffu) { emulation::warp_barrier(mask); }

template <class T>
T __shfl_sync(uint32_t mask, T value, int source) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  emulation::offer(bits);
  emulation::warp_barrier(mask);
  bits = emulation::offered(source & 31);
  emulation::warp_barrier(mask);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int other) {
  return __shfl_sync(mask, value, emulation::lane() ^ other);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta) {
  const int lane = emulation::lane(), source = lane + int(delta);
  return __shfl_sync(mask, value, source < 32 ? source : lane);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  emulation::offer(predicate != 0);
  emulation::warp_barrier(mask);
  uint32_t votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) votes |= uint32_t(emulation::offered(lane)) << lane;
  }
  emulation::warp_barrier(mask);
  return votes;
}

// One operating system thread: nothing comes in between.
template <class T>
T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}
