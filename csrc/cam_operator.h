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
#include "cam_rules.h"

namespace camfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// One call, checked. Results are contiguous, in the type of accumulation.
struct Call {
  Shape shape;
  RuleId rule;
  bool relu, normalize;
  const Tensor& activations;
  const std::optional<Tensor>& gradients;
  const std::optional<Tensor>& weights;
  Strides activation_strides, gradient_strides;
  int64_t weights_map = 0, weights_channel = 0;  // strides of the given weights [M, C]
};

struct Results {
  Tensor heatmaps;  // [M, H, W]
  Tensor ranges;    // [M, 2]: minimum and maximum before normalization
};

inline Strides strides_of(const Tensor& t) {
  return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// float64 accumulates in float64, all else in float32.
inline ScalarType accumulation_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline RuleId rule_of(const std::string& name, bool weights_given) {
  if (weights_given) {
    STD_TORCH_CHECK(name == "gradcam", "camfast::cam: rule '", name, "' needs gradients, not weights");
    return RuleId::kGivenWeights;
  }
  int known = 0;
  for (const char* rule : kRuleNames) {
    if (name == rule) return static_cast<RuleId>(known);
    ++known;
  }
  STD_TORCH_CHECK(false, "camfast::cam: unknown rule '", name, "'");
  return RuleId::kGradCam;
}

inline Call check_operands(
    const Tensor& activations,
    const std::optional<Tensor>& gradients,
    const std::optional<Tensor>& weights,
    const std::string& rule,
    int64_t height,
    int64_t width,
    bool relu,
    bool normalize) {
  constexpr int64_t longest_side = int64_t(1) << 30;  // source_tap multiplies two sides and 2
  const ScalarType type = activations.scalar_type();

  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16 || type == ScalarType::Double,
      "camfast::cam: activations must be float32, float16, bfloat16 or float64");
  STD_TORCH_CHECK(
      gradients.has_value() != weights.has_value(), "camfast::cam: give either gradients or weights, and not both");

  Call call{{}, rule_of(rule, weights.has_value()), relu, normalize, activations, gradients, weights, {}, {}};
  Shape& shape = call.shape;
  const int64_t samples = activations.size(0);
  const Tensor& explained = gradients.has_value() ? *gradients : *weights;  // one for every map
  shape.maps = explained.dim() > 0 ? explained.size(0) : 0;
  shape.maps_per_sample = samples > 0 ? shape.maps / samples : 0;
  shape.channels = activations.size(1);
  shape.layer_height = activations.size(2);
  shape.layer_width = activations.size(3);
  shape.height = height;
  shape.width = width;
  STD_TORCH_CHECK(
      shape.channels > 0 && shape.layer_height > 0 && shape.layer_width > 0,
      "camfast::cam: activations must have at least one channel, row and column");
  STD_TORCH_CHECK(
      height > 0 && width > 0 && height < longest_side && width < longest_side && shape.layer_height < longest_side &&
          shape.layer_width < longest_side,
      "camfast::cam: sides must lie in [1, 2^30)");
  STD_TORCH_CHECK(
      shape.maps == 0 || shape.pixels() <= std::numeric_limits<int64_t>::max() / int64_t(sizeof(double)) / shape.maps,
      "camfast::cam: the heatmaps' byte count overflows");
  STD_TORCH_CHECK(
      shape.channels <= INT64_MAX / 32 - 1 && shape.maps <= INT64_MAX / (shape.channels / 32 + 1) &&
          is_countable(shape.maps * (shape.channels / 32 + 1), shape.layer_height, shape.layer_width),
      "camfast::cam: activations are too large");
  call.activation_strides = strides_of(activations);

  if (gradients.has_value()) {
    STD_TORCH_CHECK(
        gradients->dim() == 4 && shape.maps == samples * shape.maps_per_sample &&
            gradients->size(1) == shape.channels && gradients->size(2) == shape.layer_height &&
            gradients->size(3) == shape.layer_width,
        "camfast::cam: gradients must have the shape of activations, or a multiple of their samples");
    STD_TORCH_CHECK(gradients->scalar_type() == type, "camfast::cam: gradients must have the dtype of activations");
    STD_TORCH_CHECK(gradients->device() == activations.device(), "camfast::cam: gradients are on another device");
    call.gradient_strides = strides_of(*gradients);
  } else {
    STD_TORCH_CHECK(
        weights->dim() == 2 && shape.maps == samples * shape.maps_per_sample && weights->size(1) == shape.channels,
        "camfast::cam: weights must be [N, C], or a multiple of N");
    STD_TORCH_CHECK(
        weights->scalar_type() == accumulation_type(type),
        "camfast::cam: weights must be float32 (float64 with float64 activations)");
    STD_TORCH_CHECK(weights->device() == activations.device(), "camfast::cam: weights are on another device");
    call.weights_map = weights->stride(0);
    call.weights_channel = weights->stride(1);
  }
  return call;
}

inline void check_activations(const Tensor& activations) {
  STD_TORCH_CHECK(
      activations.dim() == 4, "camfast::cam: activations must be [N, C, h, w], not of rank ", activations.dim());
}

// Runs a backend that has
//   template <typename T, typename Acc> static void run(const Call&, const Results&)
// where T is the type of the activations and Acc the one it accumulates in.
template <typename Backend>
void run_cam(const Call& call, const Results& results) {
  if (call.shape.maps == 0) return;
  switch (call.activations.scalar_type()) {
    case ScalarType::Double:
      return Backend::template run<double, double>(call, results);
    case ScalarType::Half:
      return Backend::template run<torch::headeronly::Half, float>(call, results);
    case ScalarType::BFloat16:
      return Backend::template run<torch::headeronly::BFloat16, float>(call, results);
    default:  // check_operands let nothing else through
      return Backend::template run<float, float>(call, results);
  }
}

// The operator `cam`.
template <typename Backend>
std::tuple<Tensor, Tensor> cam(
    const Tensor& activations,
    const std::optional<Tensor>& gradients,
    const std::optional<Tensor>& weights,
    const std::string& rule,
    const std::optional<std::vector<int64_t>>& size,
    bool relu,
    bool normalize) {
  check_activations(activations);
  STD_TORCH_CHECK(!size.has_value() || size->size() == 2, "camfast::cam: size must be (height, width)");
  const int64_t height = size ? (*size)[0] : activations.size(2), width = size ? (*size)[1] : activations.size(3);
  const Call call = check_operands(activations, gradients, weights, rule, height, width, relu, normalize);

  const ScalarType accumulation = accumulation_type(activations.scalar_type());
  const Results results{
      torch::stable::new_empty(activations, {call.shape.maps, height, width}, accumulation),
      torch::stable::new_empty(activations, {call.shape.maps, 2}, accumulation)};
  run_cam<Backend>(call, results);
  return {results.heatmaps, results.ranges};
}

// The operator `cam.out`.
template <typename Backend>
void cam_out(
    const Tensor& activations,
    const std::optional<Tensor>& gradients,
    const std::optional<Tensor>& weights,
    const std::string& rule,
    bool relu,
    bool normalize,
    const Tensor& heatmaps,
    const Tensor& ranges) {
  check_activations(activations);
  STD_TORCH_CHECK(heatmaps.dim() == 3, "camfast::cam: heatmaps must be [M, H, W], not of rank ", heatmaps.dim());
  const Call call = check_operands(
      activations, gradients, weights, rule, heatmaps.size(1), heatmaps.size(2), relu, normalize);
  const int64_t maps = call.shape.maps;
  STD_TORCH_CHECK(heatmaps.size(0) == maps, "camfast::cam: heatmaps must be [M, H, W] with M = ", maps);
  STD_TORCH_CHECK(
      ranges.dim() == 2 && ranges.size(0) == maps && ranges.size(1) == 2,
      "camfast::cam: ranges must be [M, 2] with M = ", maps);
  for (const Tensor* out : {&heatmaps, &ranges}) {
    STD_TORCH_CHECK(
        out->scalar_type() == accumulation_type(activations.scalar_type()),
        "camfast::cam: heatmaps and ranges must be float32 (float64 with float64 activations)");
    STD_TORCH_CHECK(
        out->device() == activations.device(), "camfast::cam: heatmaps and ranges must be on the device of activations");
    STD_TORCH_CHECK(out->is_contiguous(), "camfast::cam: heatmaps and ranges must be contiguous");
  }
  run_cam<Backend>(call, {heatmaps, ranges});
}

}  // namespace camfast
