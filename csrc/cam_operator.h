// What `cam` does in every backend: check the operands, allocate the results, dispatch over element types. The checks
// guard memory: the Python wrapper has the errors that people read, these are what TorchScript, C++ and direct callers
// meet.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cam_math.h"

namespace camfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Operands {
  Shape shape;
  Strides activations, gradients;
  int64_t weights_sample = 0, weights_channel = 0;  // strides of the given weights [N, C]
  Tensor heatmaps;                                  // [N, H, W], in the type of accumulation
  Tensor ranges;                                    // [N, 2]: minimum and maximum before normalization
};

// One call, checked.
struct Call {
  const Operands& operands;
  const Tensor& activations;
  const std::optional<Tensor>& gradients;
  const std::optional<Tensor>& weights;
  bool relu, normalize;
};

inline Strides strides_of(const Tensor& t) {
  return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// float64 accumulates in float64, all else in float32.
inline ScalarType accumulation_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Operands check_operands(
    const Tensor& activations,
    const std::optional<Tensor>& gradients,
    const std::optional<Tensor>& weights,
    const std::string& rule,
    const std::optional<std::vector<int64_t>>& size) {
  constexpr int64_t longest_side = int64_t(1) << 30;  // source_tap multiplies two sides and 2
  const ScalarType type = activations.scalar_type();
  const ScalarType accumulation = accumulation_type(type);

  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16 || type == ScalarType::Double,
      "camfast::cam: activations must be float32, float16, bfloat16 or float64");
  STD_TORCH_CHECK(
      activations.dim() == 4, "camfast::cam: activations must be [N, C, h, w], not of rank ", activations.dim());
  STD_TORCH_CHECK(rule == "gradcam", "camfast::cam: unknown rule '", rule, "'; known: gradcam");
  STD_TORCH_CHECK(
      gradients.has_value() != weights.has_value(), "camfast::cam: give either gradients or weights, and not both");

  Operands operands;
  Shape& shape = operands.shape;
  shape.samples = activations.size(0);
  shape.channels = activations.size(1);
  shape.layer_height = activations.size(2);
  shape.layer_width = activations.size(3);
  shape.height = shape.layer_height;
  shape.width = shape.layer_width;
  if (size.has_value()) {
    STD_TORCH_CHECK(size->size() == 2, "camfast::cam: size must be (height, width)");
    shape.height = (*size)[0];
    shape.width = (*size)[1];
  }
  STD_TORCH_CHECK(
      shape.channels > 0 && shape.layer_height > 0 && shape.layer_width > 0,
      "camfast::cam: activations must have at least one channel, row and column");
  STD_TORCH_CHECK(
      shape.height > 0 && shape.width > 0 && shape.height < longest_side && shape.width < longest_side &&
          shape.layer_height < longest_side && shape.layer_width < longest_side,
      "camfast::cam: sides must lie in [1, 2^30)");
  STD_TORCH_CHECK(
      shape.samples == 0 ||
          shape.pixels() <= std::numeric_limits<int64_t>::max() / int64_t(sizeof(double)) / shape.samples,
      "camfast::cam: the heatmaps' byte count overflows");
  operands.activations = strides_of(activations);

  if (gradients.has_value()) {
    STD_TORCH_CHECK(
        gradients->dim() == 4 && gradients->size(0) == shape.samples && gradients->size(1) == shape.channels &&
            gradients->size(2) == shape.layer_height && gradients->size(3) == shape.layer_width,
        "camfast::cam: gradients must have the shape of activations");
    STD_TORCH_CHECK(gradients->scalar_type() == type, "camfast::cam: gradients must have the dtype of activations");
    STD_TORCH_CHECK(gradients->device() == activations.device(), "camfast::cam: gradients are on another device");
    operands.gradients = strides_of(*gradients);
  } else {
    STD_TORCH_CHECK(
        weights->dim() == 2 && weights->size(0) == shape.samples && weights->size(1) == shape.channels,
        "camfast::cam: weights must be [N, C]");
    STD_TORCH_CHECK(
        weights->scalar_type() == accumulation, "camfast::cam: weights must be float32 (float64 with float64 activations)");
    STD_TORCH_CHECK(weights->device() == activations.device(), "camfast::cam: weights are on another device");
    operands.weights_sample = weights->stride(0);
    operands.weights_channel = weights->stride(1);
  }

  operands.heatmaps = torch::stable::new_empty(activations, {shape.samples, shape.height, shape.width}, accumulation);
  operands.ranges = torch::stable::new_empty(activations, {shape.samples, 2}, accumulation);
  return operands;
}

// The operator, for a backend that has
//   template <typename T, typename Acc> static void run(const Call&)
// where T is the type of the activations and Acc the one it accumulates in.
template <typename Backend>
std::tuple<Tensor, Tensor> cam(
    const Tensor& activations,
    const std::optional<Tensor>& gradients,
    const std::optional<Tensor>& weights,
    const std::string& rule,
    const std::optional<std::vector<int64_t>>& size,
    bool relu,
    bool normalize) {
  const Operands operands = check_operands(activations, gradients, weights, rule, size);
  const Call call{operands, activations, gradients, weights, relu, normalize};
  if (operands.shape.samples > 0) {
    switch (activations.scalar_type()) {
      case ScalarType::Double:
        Backend::template run<double, double>(call);
        break;
      case ScalarType::Half:
        Backend::template run<torch::headeronly::Half, float>(call);
        break;
      case ScalarType::BFloat16:
        Backend::template run<torch::headeronly::BFloat16, float>(call);
        break;
      default:  // check_operands let nothing else through
        Backend::template run<float, float>(call);
    }
  }
  return {operands.heatmaps, operands.ranges};
}

}  // namespace camfast
