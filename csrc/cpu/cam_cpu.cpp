// Class activation maps on the CPU: one task a sample, four steps, nothing of size [N, C, h, w] is written.
//
//   G [C, h, w] --mean--> w [C] --weighted sum of A [C, h, w], ReLU--> L [h, w] --bilinear--> U [H, W] --min-max--> M
//
// Pooling and the weighted sum follow the memory: along the plane where planes are contiguous (NCHW), along the
// channels where channels are (channels-last), element by element for any other strides.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../cam_math.h"
#include "../cam_operator.h"

namespace camfast {
namespace {

// Independent partial sums vectorize without fast-math. They stay short and are then added up in double, because a long
// running sum in float32 drifts: by 1e-3 over a layer of 512 x 512.
constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 64;  // additions in a row

// Sum of term(i) over i < count.
template <typename Acc, typename Term>
Acc sum(int64_t count, const Term& term) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kLanes * kBlock) {
    const int64_t end = std::min(count, begin + kLanes * kBlock);
    Acc lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
    for (; i < end; ++i) lanes[i % kLanes] += term(i);
    for (int64_t lane = 0; lane < kLanes; ++lane) total += lanes[lane];
  }
  return static_cast<Acc>(total);
}

template <typename T>
struct Planes {
  const T* data;
  Strides strides;

  bool contiguous_planes(const Shape& shape) const {
    return strides.column == 1 && strides.row == shape.layer_width;
  }
  bool channels_last() const { return strides.channel == 1; }
  const T* at(int64_t channel, int64_t row, int64_t column) const {
    return data + channel * strides.channel + row * strides.row + column * strides.column;
  }
};

// weights[c] = mean over positions of G_c
template <typename T, typename Acc>
void pool_gradients(const Planes<T>& gradients, const Shape& shape, Acc* weights) {
  const int64_t channels = shape.channels, width = shape.layer_width;
  if (gradients.contiguous_planes(shape)) {
    for (int64_t c = 0; c < channels; ++c) {
      const T* plane = gradients.at(c, 0, 0);
      weights[c] = sum<Acc>(shape.layer_pixels(), [&](int64_t i) { return static_cast<Acc>(plane[i]); }) /
                   Acc(shape.layer_pixels());
    }
    return;
  }
  std::vector<double> totals(channels);
  for (int64_t begin = 0; begin < shape.layer_pixels(); begin += kBlock) {
    std::fill_n(weights, channels, Acc(0));
    for (int64_t p = begin; p < std::min(shape.layer_pixels(), begin + kBlock); ++p) {
      const T* pixel = gradients.at(0, p / width, p % width);
      if (gradients.channels_last()) {
        for (int64_t c = 0; c < channels; ++c) weights[c] += static_cast<Acc>(pixel[c]);
      } else {
        for (int64_t c = 0; c < channels; ++c) weights[c] += static_cast<Acc>(pixel[c * gradients.strides.channel]);
      }
    }
    for (int64_t c = 0; c < channels; ++c) totals[c] += weights[c];
  }
  for (int64_t c = 0; c < channels; ++c) weights[c] = static_cast<Acc>(totals[c] / double(shape.layer_pixels()));
}

// layer[y, x] = sum over channels of weights[c] * A[c, y, x]
template <typename T, typename Acc>
void weighted_sum(const Planes<T>& activations, const Acc* weights, const Shape& shape, Acc* layer, Acc* block) {
  const int64_t pixels = shape.layer_pixels(), width = shape.layer_width;
  if (activations.contiguous_planes(shape)) {
    std::fill_n(layer, pixels, Acc(0));
    for (int64_t begin = 0; begin < shape.channels; begin += kBlock) {
      std::fill_n(block, pixels, Acc(0));
      for (int64_t c = begin; c < std::min(shape.channels, begin + kBlock); ++c) {
        const T* plane = activations.at(c, 0, 0);
        for (int64_t i = 0; i < pixels; ++i) block[i] += weights[c] * static_cast<Acc>(plane[i]);
      }
      for (int64_t i = 0; i < pixels; ++i) layer[i] += block[i];
    }
    return;
  }
  const int64_t stride = activations.strides.channel;
  for (int64_t p = 0; p < pixels; ++p) {
    const T* pixel = activations.at(0, p / width, p % width);
    if (stride == 1) {
      layer[p] = sum<Acc>(shape.channels, [&](int64_t c) { return weights[c] * static_cast<Acc>(pixel[c]); });
    } else {
      layer[p] = sum<Acc>(shape.channels, [&](int64_t c) { return weights[c] * static_cast<Acc>(pixel[c * stride]); });
    }
  }
}

// Bilinear upsampling of layer [h, w] into heatmap [H, W], rows first; returns the range of what it wrote.
template <typename Acc>
Range<Acc> upsample(
    const Acc* layer, const Shape& shape, const std::vector<Tap<Acc>>& columns, Acc* blended_row, Acc* heatmap) {
  Range<Acc> range = Range<Acc>::empty();
  for (int64_t y = 0; y < shape.height; ++y) {
    const Tap<Acc> row = source_tap<Acc>(y, shape.layer_height, shape.height);
    const Acc* lower = layer + row.lower * shape.layer_width;
    const Acc* upper = layer + row.upper * shape.layer_width;
    for (int64_t x = 0; x < shape.layer_width; ++x) blended_row[x] = interpolate(lower[x], upper[x], row.fraction);

    Acc* out = heatmap + y * shape.width;
    for (int64_t x = 0; x < shape.width; ++x) {
      const Tap<Acc>& column = columns[x];
      out[x] = interpolate(blended_row[column.lower], blended_row[column.upper], column.fraction);
      range.include(out[x]);
    }
  }
  return range;
}

struct Cpu {
  template <typename T, typename Acc>
  static void run(const Call& call) {
    const Operands& operands = call.operands;
    const Shape shape = operands.shape;
    const T* activations = call.activations.const_data_ptr<T>();
    const T* gradients = call.gradients ? call.gradients->const_data_ptr<T>() : nullptr;
    const Acc* given_weights = call.weights ? call.weights->const_data_ptr<Acc>() : nullptr;
    Acc* heatmaps = operands.heatmaps.mutable_data_ptr<Acc>();
    Acc* ranges = operands.ranges.mutable_data_ptr<Acc>();

    std::vector<Tap<Acc>> columns(shape.width);
    for (int64_t x = 0; x < shape.width; ++x) columns[x] = source_tap<Acc>(x, shape.layer_width, shape.width);

    torch::stable::parallel_for(0, shape.samples, 1, [&](int64_t begin, int64_t end) {
      std::vector<Acc> weights(shape.channels), layer(shape.layer_pixels()), block(shape.layer_pixels());
      std::vector<Acc> blended_row(shape.layer_width);
      for (int64_t n = begin; n < end; ++n) {
        if (gradients != nullptr) {
          pool_gradients(
              Planes<T>{gradients + n * operands.gradients.sample, operands.gradients}, shape, weights.data());
        } else {
          for (int64_t c = 0; c < shape.channels; ++c)
            weights[c] = given_weights[n * operands.weights_sample + c * operands.weights_channel];
        }
        weighted_sum(
            Planes<T>{activations + n * operands.activations.sample, operands.activations},
            weights.data(),
            shape,
            layer.data(),
            block.data());

        Acc* heatmap = heatmaps + n * shape.pixels();
        if (!std::all_of(layer.begin(), layer.end(), is_usable<Acc>)) {
          std::fill_n(heatmap, shape.pixels(), Acc(0));
          ranges[2 * n] = ranges[2 * n + 1] = std::numeric_limits<Acc>::quiet_NaN();
          continue;
        }
        if (call.relu) std::transform(layer.begin(), layer.end(), layer.begin(), rectify<Acc>);

        const Range<Acc> range = upsample(layer.data(), shape, columns, blended_row.data(), heatmap);
        ranges[2 * n] = range.low;
        ranges[2 * n + 1] = range.high;
        if (call.normalize)
          for (int64_t i = 0; i < shape.pixels(); ++i) heatmap[i] = range.normalize(heatmap[i]);
      }
    });
  }
};

}  // namespace
}  // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) {
  m.impl("cam", TORCH_BOX(&camfast::cam<camfast::Cpu>));
}
