// Values as integers of a scale, for one instruction set; see simd.h for how this file is included.
#pragma once

#include "levels.h"

namespace camfast::CAMFAST_ISA {

// To the nearest, and of two the even one. NaN becomes 0.
template <typename T>
CAMFAST_INLINE void quantize_block(const T* values, float scale, float zero, uint8_t* integers) {
  constexpr float whole = 8388608;  // 2^23: the first float after which there are no fractions
  const auto scaled = load<float, kLevelBlock>(values) * scale + zero;
  const auto limited = clamp(scaled, LevelBlock::of(0), LevelBlock::of(kLevels - 1));
  store_levels(limited + whole - whole, integers);
}

template <typename T>
void quantize(const T* values, int64_t count, float scale, float zero, uint8_t* integers) {
  int64_t i = 0;
  for (; i + kLevelBlock <= count; i += kLevelBlock) quantize_block(values + i, scale, zero, integers + i);
  if (i == count) return;
  T rest[kLevelBlock] = {};
  uint8_t made[kLevelBlock];
  for (int64_t k = i; k < count; ++k) rest[k - i] = values[k];
  quantize_block(rest, scale, zero, made);
  for (int64_t k = i; k < count; ++k) integers[k] = made[k - i];
}

QuantizeKernels quantize_kernels() {
  return {quantize<float>, quantize<Float16>, quantize<BFloat16>};
}

}  // namespace camfast::CAMFAST_ISA
