// The runtime's errors in words.
#include <cstdio>

#include "cuda/device.h"

namespace densecrf {
namespace cuda {

void describe(Status status, char* text, size_t size) {
  const int number = int(status) - int(Status::kDevice);
  const bool none = number == cudaErrorNoDevice || number == cudaErrorInsufficientDriver;
  std::snprintf(text, size, "%s: %s (error %d)", none ? "no CUDA device" : "CUDA",
                cudaGetErrorString(cudaError_t(number)), number);
}

}  // namespace cuda
}  // namespace densecrf
