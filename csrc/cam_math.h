// The geometry and arithmetic of a class activation map, written once for host and device. No torch header.
// cam_rules.h has the rules, overlay_math.h the colours.
#pragma once

#include <cstdint>

// Always inlined on the host: the same text is compiled for several instruction sets, and no copy may outlive its own.
#if defined(__CUDACC__)
#define CAMFAST_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CAMFAST_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace camfast {

// Element strides of a [N, C, h, w] tensor; gradients have a sample for every map.
struct Strides {
  int64_t sample, channel, row, column;
};

// Everything about one call that does not depend on the element type.
struct Shape {
  int64_t maps, maps_per_sample;      // M = K * N, and K: map m is of sample m / K
  int64_t channels;                   // C
  int64_t layer_height, layer_width;  // h, w: the target layer
  int64_t height, width;              // H, W: the heatmap

  CAMFAST_HOST_DEVICE int64_t sample_of(int64_t map) const { return map / maps_per_sample; }
  CAMFAST_HOST_DEVICE int64_t layer_pixels() const { return layer_height * layer_width; }
  CAMFAST_HOST_DEVICE int64_t pixels() const { return height * width; }
};

// Whether scratch memory for so many maps can be counted in bytes, several times over; the sides lie below 2^30.
CAMFAST_HOST_DEVICE bool is_countable(int64_t maps, int64_t height, int64_t width) {
  constexpr int64_t room = INT64_MAX / 128;
  return height <= room / (width + 64) && (maps == 0 || height * (width + 64) <= room / maps);
}

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

template <typename Acc>
CAMFAST_HOST_DEVICE Acc clamp(Acc value, Acc low, Acc high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// Exact where a == b, so that a constant map stays constant, and monotone in the fraction. On the device one rounding,
// whichever way the compiler would have it: the range of a map is found by evaluating some of its pixels twice.
template <typename Acc>
CAMFAST_HOST_DEVICE Acc interpolate(Acc a, Acc b, Acc fraction) {
#if defined(__CUDA_ARCH__)
  return fma(fraction, b - a, a);
#else
  return a + fraction * (b - a);
#endif
}

// Which input lies below one output position, and how much of the one above it goes in. Where the fraction is zero there
// may be no input above.
template <typename Acc>
struct Tap {
  int64_t lower;
  Acc fraction;
};

// Half-pixel centres, edges clamped. An output centre lies at ((2 position + 1) in - out) / (2 out) in input pixels:
// a quotient of integers, so the only rounding is that of the fraction itself, at any size.
template <typename Acc>
CAMFAST_HOST_DEVICE Tap<Acc> source_tap(int64_t position, int64_t in, int64_t out) {
  const int64_t numerator = (2 * position + 1) * in - out;
  if (numerator <= 0) return {0, Acc(0)};
  const int64_t lower = numerator / (2 * out);
  if (lower >= in - 1) return {in - 1, Acc(0)};
  return {lower, Acc(numerator - lower * 2 * out) / Acc(2 * out)};
}

// Along one axis an interpolated map is monotone between two inputs, so its extremes lie where a stretch with the same
// lower input begins or ends. These few corners have the range of the whole map:
//
//   input        *           *           *          in = 3
//   output   . . . . . . . . . . . . . . . . . .    out = 18
//   corners  ^   ^ ^         ^ ^         ^ ^   ^    2 in + 2 at most
CAMFAST_HOST_DEVICE int64_t corner_count(int64_t in, int64_t out) {
  return out <= 2 * in + 2 ? out : 2 * in + 2;
}

// The position of corner `index`, not falling with it.
CAMFAST_HOST_DEVICE int64_t corner(int64_t index, int64_t in, int64_t out) {
  if (out <= 2 * in + 2) return index;
  if (index == 0) return 0;
  if (index == 2 * in + 1) return out - 1;
  const int64_t k = (index - 1) / 2;
  const int64_t begin = (out * (2 * k + 1) - in + 2 * in - 1) / (2 * in);  // the first position with lower == k
  return begin - (index % 2);
}

// Minimum and maximum of one map.
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
};

// What becomes of an interpolated value: clamp((value - offset) * lift * scale, low, high).
template <typename Acc>
struct Finish {
  Acc offset, lift, scale, low, high;

  // To [0, 1]; all zeros where the range is empty, reversed or not a number.
  CAMFAST_HOST_DEVICE static Finish normalized(const Range<Acc>& range) {
    const Acc span = range.high - range.low;  // may be flushed to zero where the two differ by a denormal
    if (!(span > 0 && is_usable(range.low) && is_usable(range.high))) return {Acc(0), Acc(0), Acc(0), Acc(0), Acc(0)};
    // The reciprocal of a denormal overflows, that of a huge number is a denormal.
    const Acc lift = span < Acc(0x1p-64) ? Acc(0x1p64) : span > Acc(0x1p64) ? Acc(0x1p-64) : Acc(1);
    Acc scale = 1 / (span * lift);
    // The maximum becomes exactly 1: a reciprocal that was rounded down is taken one unit up.
    if (span * lift * scale < 1) scale *= 1 + (sizeof(Acc) == 4 ? Acc(0x1p-23) : Acc(0x1p-52));
    return {range.low, lift, scale, Acc(0), Acc(1)};
  }
  // As it is, within the range of its corners: between them rounding may stray by one unit.
  CAMFAST_HOST_DEVICE static Finish unchanged(const Range<Acc>& range) {
    return {Acc(0), Acc(1), Acc(1), range.low, range.high};
  }
  CAMFAST_HOST_DEVICE Acc operator()(Acc value) const { return clamp((value - offset) * lift * scale, low, high); }
};

}  // namespace camfast
