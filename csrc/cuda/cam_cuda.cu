// Launches cam_kernel.cuh: dispatch over element types, shared memory, registration.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../cam_operands.h"
#include "cam_kernel.cuh"
#include "launch.h"

namespace camfast {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kSharedBytes = 48 * 1024;  // what every architecture grants without asking

template <typename T, typename Acc>
void run(
    const Operands& operands,
    const Tensor& activations,
    const std::optional<Tensor>& gradients,
    const std::optional<Tensor>& weights,
    bool relu,
    bool normalize) {
  const Launch launch(activations);
  const Shape& shape = operands.shape;
  const int warps = kThreads / kWarpSize;
  const bool layer_fits =
      shape.layer_pixels() <= kSharedBytes && SharedLayout<Acc>::bytes(warps, shape.layer_pixels()) <= kSharedBytes;

  // Kept until the launch is queued; the caching allocator then reuses it in stream order.
  std::optional<Tensor> scratch;
  if (!layer_fits)
    scratch = torch::stable::new_empty(
        activations, {shape.samples, shape.layer_pixels()}, accumulation_type(activations.scalar_type()));

  CamArguments<T, Acc> args;
  args.shape = shape;
  args.activations = activations.const_data_ptr<T>();
  args.activation_strides = operands.activations;
  args.gradients = gradients ? gradients->const_data_ptr<T>() : nullptr;
  args.gradient_strides = operands.gradients;
  args.weights = weights ? weights->const_data_ptr<Acc>() : nullptr;
  args.weights_sample = operands.weights_sample;
  args.weights_channel = operands.weights_channel;
  args.scratch = scratch ? scratch->mutable_data_ptr<Acc>() : nullptr;
  args.heatmaps = operands.heatmaps.mutable_data_ptr<Acc>();
  args.ranges = operands.ranges.mutable_data_ptr<Acc>();
  args.relu = relu;
  args.normalize = normalize;

  const int64_t bytes = SharedLayout<Acc>::bytes(warps, layer_fits ? shape.layer_pixels() : 0);
  cam_kernel<T, Acc><<<static_cast<unsigned>(shape.samples), kThreads, bytes, launch.stream()>>>(args);
  launch.check();
}

std::tuple<Tensor, Tensor> cam(
    const Tensor& activations,
    const std::optional<Tensor>& gradients,
    const std::optional<Tensor>& weights,
    const std::string& rule,
    const std::optional<std::vector<int64_t>>& size,
    bool relu,
    bool normalize) {
  const Operands operands = check_operands(activations, gradients, weights, rule, size);
  STD_TORCH_CHECK(operands.shape.samples < (int64_t(1) << 31), "camfast::cam: at most 2^31 - 1 samples on CUDA");
  if (operands.shape.samples > 0) {
    dispatch_element_type(activations.scalar_type(), [&]<typename T, typename Acc>() {
      run<T, Acc>(operands, activations, gradients, weights, relu, normalize);
    });
  }
  return {operands.heatmaps, operands.ranges};
}

}  // namespace
}  // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) {
  m.impl("cam", TORCH_BOX(&camfast::cam));
}
