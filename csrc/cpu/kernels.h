// The CPU kernels as the operators see them: tables of functions, one for each instruction set that was compiled. Which
// one serves is decided at run time, in instruction_set.cpp. No torch header.
//
// All of them compute in the same order with the same roundings, so results do not depend on the processor.
#pragma once

#include <cstdint>

#include "../cam_math.h"
#include "../cam_rules.h"

namespace camfast {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Sums run over this many lanes side by side, whatever the width of a register.
constexpr int64_t kLanes = 16;

CAMFAST_HOST_DEVICE constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Some channels of one sample, as planes [h, w].
template <typename T, typename Acc>
struct ChannelBlock {
  const T* activations;  // of the first channel
  const T* gradients;
  Strides activation_strides, gradient_strides;
  const Acc* weights;  // given ones
  int64_t weights_stride;
  int64_t channels, height, width;
  Acc* packed;  // room for packed_size() elements, where planes are not contiguous; else null
  Acc* sums;    // [slots]: the weighted sum over these channels
};

// A map is kept in slots of kLanes elements: 0 .., 16 .., 32 .., the last one ending with the map and so overlapping its
// neighbour. Nothing is masked, and the overlap holds the same value twice.
CAMFAST_HOST_DEVICE constexpr int64_t slots(int64_t pixels) {
  return round_up(pixels, kLanes);
}

// Whether planes can be read as they lie, by whole lanes.
CAMFAST_HOST_DEVICE bool planes_are_contiguous(const Strides& strides, int64_t height, int64_t width) {
  return strides.column == 1 && strides.row == width && height * width >= kLanes;
}

constexpr int64_t kChannelGroup = 4;  // planes that are added in one go
CAMFAST_HOST_DEVICE constexpr int64_t packed_size(int64_t pixels) {
  return 2 * kChannelGroup * slots(pixels);
}

// Some positions or channels of one sample whose channels are contiguous (channels-last); at least kLanes channels.
template <typename T, typename Acc>
struct PositionBlock {
  const T* activations;  // of the sample
  const T* gradients;
  Strides activation_strides, gradient_strides;
  int64_t channels, height, width;
};

// How the outputs of a row are made of its inputs: out[x] = row[lower] + fraction * (row[lower + 1] - row[lower]).
template <typename Acc>
struct Columns {
  int64_t outputs, inputs;
  const int32_t* base;    // [groups]: the first input of every group of outputs
  const int32_t* offset;  // [outputs, rounded up to kLevelBlock, and as many again]: lower - base
  const Acc* fraction;    // the same
  const int32_t* begin;   // [inputs + 1]: the outputs of which input k is the lower one are begin[k] .. begin[k + 1]
  int64_t reach;          // the largest offset
};

// Rows of a map that is to be interpolated are this far apart and filled up with their last value, so that whole
// registers can be loaded at any column.
CAMFAST_HOST_DEVICE constexpr int64_t row_pitch(int64_t width) {
  return round_up(width, kLanes) + 2 * kLanes;
}

template <typename T, typename Acc>
struct CamKernels {
  // Channels as planes: sums[] of some channels.
  void (*accumulate[kRuleCount])(const ChannelBlock<T, Acc>&);
  // Channels-last: weights of channels [begin, end), then the map at positions [begin, end).
  void (*weigh[kRuleCount])(const PositionBlock<T, Acc>&, int64_t begin, int64_t end, Acc* weights);
  void (*sum_channels[kRuleCount])(
      const PositionBlock<T, Acc>&, const Acc* weights, int64_t begin, int64_t end, Acc* layer);
};

template <typename Acc>
struct MapKernels {
  int64_t group;  // outputs that Columns are grouped by

  // Adds up `count` partial maps in slots; leaves a map [pixels] without slots at `partials`.
  void (*collect)(Acc* partials, int64_t count, int64_t pixels);
  // A map [h, w] as rows at row_pitch, rectified on request; false where a value is not usable.
  bool (*lay_rows)(const Acc* layer, int64_t height, int64_t width, bool relu, Acc* rows);
  // out[x] for one output row between two rows; row: room for 2 * row_pitch. `stream` writes past the caches.
  void (*interpolate_row)(
      const Acc* lower, const Acc* upper, Acc fraction, const Columns<Acc>&, const Finish<Acc>&, Acc* row, Acc* out,
      bool stream);
  // The range of `count` values.
  Range<Acc> (*range)(const Acc* values, int64_t count);
};

// Levels are made and read this many at a time: buffers of them are rounded up to it, and have as much room again.
constexpr int64_t kLevelBlock = 64;

struct OverlayKernels {
  // Levels of one output row; row: room for 2 * row_pitch.
  void (*levels_row)(
      const float* lower, const float* upper, float fraction, const Columns<float>&, const Finish<float>&, float* row,
      uint8_t* levels);
  // Levels of the chroma samples under two rows of levels.
  void (*mean_levels)(const uint8_t* upper, const uint8_t* lower, int64_t count, uint8_t* levels);
  // to[i] = blend(from[i], colour of levels[i]); table is [256] for a plane, [3, 256] for packed pixels.
  void (*blend_plane)(
      const uint8_t* from, const uint8_t* levels, int64_t count, const uint8_t* table, int opacity, uint8_t* to);
  void (*blend_packed)(
      const uint8_t* from, const uint8_t* levels, int64_t count, const uint8_t* table, int opacity, uint8_t* to);
};

// integers[i] = values[i] * scale + zero, to the nearest in 0 .. 255.
template <typename T>
using QuantizeKernel = void (*)(const T* values, int64_t count, float scale, float zero, uint8_t* integers);

struct QuantizeKernels {
  QuantizeKernel<float> float32;
  QuantizeKernel<Float16> float16;
  QuantizeKernel<BFloat16> bfloat16;
};

struct Kernels {
  const char* name;
  CamKernels<float, float> float32;
  CamKernels<double, double> float64;
  CamKernels<Float16, float> float16;
  CamKernels<BFloat16, float> bfloat16;
  MapKernels<float> maps32;
  MapKernels<double> maps64;
  OverlayKernels overlay;
  QuantizeKernels quantizers;

  template <typename T>
  const auto& cam() const;
  template <typename Acc>
  const auto& maps() const;
  template <typename T>
  QuantizeKernel<T> quantize() const;
};

template <>
inline const auto& Kernels::cam<float>() const {
  return float32;
}
template <>
inline const auto& Kernels::cam<double>() const {
  return float64;
}
template <>
inline const auto& Kernels::cam<Float16>() const {
  return float16;
}
template <>
inline const auto& Kernels::cam<BFloat16>() const {
  return bfloat16;
}
template <>
inline const auto& Kernels::maps<float>() const {
  return maps32;
}
template <>
inline const auto& Kernels::maps<double>() const {
  return maps64;
}
template <>
inline QuantizeKernel<float> Kernels::quantize<float>() const {
  return quantizers.float32;
}
template <>
inline QuantizeKernel<Float16> Kernels::quantize<Float16>() const {
  return quantizers.float16;
}
template <>
inline QuantizeKernel<BFloat16> Kernels::quantize<BFloat16>() const {
  return quantizers.bfloat16;
}

// Each is defined in a file of its own; null where that instruction set was not compiled.
const Kernels* baseline_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

// The kernels that serve on this machine. CAMFAST_SIMD=avx2 or baseline asks for less than it has.
const Kernels& kernels();

}  // namespace camfast
