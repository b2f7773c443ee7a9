// The runtime's errors as the engine's.
#pragma once
#include "cuda/device.h"

namespace densecrf {
namespace cuda {

inline Status status_of(cudaError_t error) {
  if (error == cudaSuccess) return Status::kOk;
  cudaGetLastError();  // or it stays, and CUB takes it for one of the next call
  return Status(int(Status::kDevice) + int(error));
}

}  // namespace cuda
}  // namespace densecrf
