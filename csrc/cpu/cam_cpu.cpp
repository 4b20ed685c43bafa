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

// Independent partial sums: they vectorize without fast-math, and round less than one running sum.
constexpr int64_t kLanes = 16;

template <typename Acc>
Acc sum_of_lanes(const Acc (&lanes)[kLanes]) {
  Acc total = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) total += lanes[lane];
  return total;
}

template <typename Acc, typename T>
Acc sum(const T* values, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<Acc>(values[i + lane]);
  for (; i < count; ++i) lanes[i % kLanes] += static_cast<Acc>(values[i]);
  return sum_of_lanes(lanes);
}

template <typename Acc, typename T>
Acc dot(const T* values, const Acc* weights, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<Acc>(values[i + lane]) * weights[i + lane];
  for (; i < count; ++i) lanes[i % kLanes] += static_cast<Acc>(values[i]) * weights[i];
  return sum_of_lanes(lanes);
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
  const int64_t channels = shape.channels;
  if (gradients.contiguous_planes(shape)) {
    for (int64_t c = 0; c < channels; ++c) weights[c] = sum<Acc>(gradients.at(c, 0, 0), shape.layer_pixels());
  } else {
    std::fill_n(weights, channels, Acc(0));
    for (int64_t y = 0; y < shape.layer_height; ++y)
      for (int64_t x = 0; x < shape.layer_width; ++x) {
        if (gradients.channels_last()) {
          const T* values = gradients.at(0, y, x);
          for (int64_t c = 0; c < channels; ++c) weights[c] += static_cast<Acc>(values[c]);
        } else {
          for (int64_t c = 0; c < channels; ++c) weights[c] += static_cast<Acc>(*gradients.at(c, y, x));
        }
      }
  }
  for (int64_t c = 0; c < channels; ++c) weights[c] /= Acc(shape.layer_pixels());
}

// layer[y, x] = sum over channels of weights[c] * A[c, y, x]
template <typename T, typename Acc>
void weighted_sum(const Planes<T>& activations, const Acc* weights, const Shape& shape, Acc* layer) {
  if (activations.contiguous_planes(shape)) {
    std::fill_n(layer, shape.layer_pixels(), Acc(0));
    for (int64_t c = 0; c < shape.channels; ++c) {
      const T* plane = activations.at(c, 0, 0);
      for (int64_t i = 0; i < shape.layer_pixels(); ++i) layer[i] += weights[c] * static_cast<Acc>(plane[i]);
    }
    return;
  }
  for (int64_t y = 0; y < shape.layer_height; ++y)
    for (int64_t x = 0; x < shape.layer_width; ++x) {
      Acc total = 0;
      if (activations.channels_last()) {
        total = dot(activations.at(0, y, x), weights, shape.channels);
      } else {
        for (int64_t c = 0; c < shape.channels; ++c) total += weights[c] * static_cast<Acc>(*activations.at(c, y, x));
      }
      layer[y * shape.layer_width + x] = total;
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
      std::vector<Acc> weights(shape.channels), layer(shape.layer_pixels()), blended_row(shape.layer_width);
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
            layer.data());

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
