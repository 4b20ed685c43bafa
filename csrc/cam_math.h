// The mathematics of a class activation map, written once for host and device. No torch header.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CAMFAST_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CAMFAST_HOST_DEVICE inline
#endif

namespace camfast {

// Element strides of a [N, C, h, w] tensor.
struct Strides {
  int64_t sample, channel, row, column;
};

// Everything about one call that does not depend on the element type.
struct Shape {
  int64_t samples, channels;
  int64_t layer_height, layer_width;  // h, w: the target layer
  int64_t height, width;              // H, W: the heatmap

  CAMFAST_HOST_DEVICE int64_t layer_pixels() const { return layer_height * layer_width; }
  CAMFAST_HOST_DEVICE int64_t pixels() const { return height * width; }
};

// Beyond this a map counts as not finite: below it no difference of two values overflows.
template <typename Acc>
CAMFAST_HOST_DEVICE constexpr Acc largest_usable();
template <>
CAMFAST_HOST_DEVICE constexpr float largest_usable<float>() {
  return 0x1p126f;
}
template <>
CAMFAST_HOST_DEVICE constexpr double largest_usable<double>() {
  return 0x1p1022;
}

// False for NaN, for infinities, and for values whose range would overflow.
template <typename Acc>
CAMFAST_HOST_DEVICE bool is_usable(Acc value) {
  return (value < 0 ? -value : value) <= largest_usable<Acc>();
}

template <typename Acc>
CAMFAST_HOST_DEVICE Acc rectify(Acc value) {
  return value > 0 ? value : Acc(0);
}

// Exact where a == b, so that a constant map stays constant.
template <typename Acc>
CAMFAST_HOST_DEVICE Acc interpolate(Acc a, Acc b, Acc fraction) {
  return a + fraction * (b - a);
}

// Which two inputs one output position is made of, and how much of the upper one.
template <typename Acc>
struct Tap {
  int64_t lower, upper;
  Acc fraction;
};

// Half-pixel centres, edges clamped. An output centre lies at ((2 position + 1) in - out) / (2 out) in input pixels:
// a quotient of integers, so the only rounding is that of the fraction itself, at any size.
template <typename Acc>
CAMFAST_HOST_DEVICE Tap<Acc> source_tap(int64_t position, int64_t in, int64_t out) {
  const int64_t numerator = (2 * position + 1) * in - out;
  if (numerator <= 0) return {0, 0, Acc(0)};
  const int64_t lower = numerator / (2 * out);
  if (lower >= in - 1) return {in - 1, in - 1, Acc(0)};
  return {lower, lower + 1, Acc(numerator - lower * 2 * out) / Acc(2 * out)};
}

// Running minimum and maximum of one heatmap.
template <typename Acc>
struct Range {
  Acc low, high;

  CAMFAST_HOST_DEVICE static Range empty() { return {largest_usable<Acc>(), -largest_usable<Acc>()}; }
  CAMFAST_HOST_DEVICE void include(Acc value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  CAMFAST_HOST_DEVICE void include(const Range& other) {
    low = other.low < low ? other.low : low;
    high = other.high > high ? other.high : high;
  }
  // A division, not a product with the reciprocal: the maximum becomes exactly 1 and a denormal range does not overflow.
  CAMFAST_HOST_DEVICE Acc normalize(Acc value) const {
    const Acc span = high - low;  // may be flushed to zero where the two differ by a denormal
    return span > 0 ? (value - low) / span : Acc(0);
  }
};

}  // namespace camfast
