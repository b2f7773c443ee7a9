// Numbers of 16 bits with the range of float: its upper half, so that nothing that float can hold overflows.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/macros.h"

DENSECRF_BEGIN

class BFloat16 {
 public:
  BFloat16() = default;
  // The nearest one, the even one of two; the bits left over would turn some NaN into a number.
  DENSECRF_HD explicit BFloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits_ = value != value ? uint16_t(0x7fc0) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  DENSECRF_HD operator float() const {
    const uint32_t bits = uint32_t(bits_) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

 private:
  uint16_t bits_;
};

DENSECRF_END
