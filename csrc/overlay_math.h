// The arithmetic of an overlay, written once for host and device; no torch header.
//
//   map [h, w] --rows--> [H, w] --(value - low) / (high - low), times 255--> --columns--> level 0 .. 255 --> colour
//   pixel + ((colour - pixel) * opacity + half) / one, in whole numbers: the same bits everywhere
//
// Scaling is linear, so it may come before the columns are interpolated (the CPU, with few values a row) or after.
#pragma once

#include <cstdint>

#include "cam_math.h"

namespace camfast {

constexpr int kLevels = 256;
constexpr int kOpaque = 1 << 14;  // alpha in steps of 1 / 16384

// Rounded down after a half was added; alpha 0 gives the pixel, alpha 1 the colour, exactly.
CAMFAST_HOST_DEVICE uint8_t blend(int pixel, int color, int opacity) {
  return static_cast<uint8_t>(pixel + (((color - pixel) * opacity + kOpaque / 2) >> 14));
}

// The level of a value in [0, 1].
CAMFAST_HOST_DEVICE int level_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float2int_rz(__fadd_rn(__fmul_rn(value, 255.0f), 0.5f));  // two roundings, as everywhere else
#else
  return static_cast<int>(value * 255.0f + 0.5f);
#endif
}

// The level of a chroma sample, from the levels of the four pixels that it covers.
CAMFAST_HOST_DEVICE int mean_level(int a, int b, int c, int d) {
  return (a + b + c + d + 2) >> 2;
}

// Values that lie further outside [0, 1] are drawn as these, which is as good, and cannot overflow.
constexpr float kFarBeyond = 0x1p20f;

// A value of the map that interpolation and scaling can take: not a number is no heat.
CAMFAST_HOST_DEVICE float drawable(float value) {
  return value == value ? clamp(value, -largest_usable<float>(), largest_usable<float>()) : 0.0f;
}

// Where the map lies in the frame, in pixels.
struct Region {
  int64_t top, left, height, width;
};

// The chroma samples of a 4:2:0 plane whose every pixel lies in the region: [begin, end) along one axis. A sample
// covers pixels 2 k and 2 k + 1, the last one of an odd side only the former. The others stay as they are.
struct Span {
  int64_t begin, end;
};
CAMFAST_HOST_DEVICE Span covered_chroma(int64_t region_begin, int64_t region_size, int64_t frame_size) {
  const int64_t region_end = region_begin + region_size;
  const int64_t begin = (region_begin + 1) / 2;
  const int64_t end = region_end == frame_size ? (region_end + 1) / 2 : region_end / 2;
  return {begin, end < begin ? begin : end};
}

}  // namespace camfast
