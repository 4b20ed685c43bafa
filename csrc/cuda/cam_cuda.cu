// Launches cam_kernel.cuh: shared memory, stream, registration.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../cam_operator.h"
#include "cam_kernel.cuh"
#include "launch.h"

namespace camfast {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kSharedBytes = 48 * 1024;  // what every architecture grants without asking

struct Cuda {
  template <typename T, typename Acc>
  static void run(const Call& call) {
    const Operands& operands = call.operands;
    const Shape& shape = operands.shape;
    STD_TORCH_CHECK(shape.samples < (int64_t(1) << 31), "camfast::cam: at most 2^31 - 1 samples on CUDA");
    const Launch launch(call.activations);
    const int warps = kThreads / kWarpSize;
    const bool layer_fits =
        shape.layer_pixels() <= kSharedBytes && SharedLayout<Acc>::bytes(warps, shape.layer_pixels()) <= kSharedBytes;

    // Kept until the launch is queued; the caching allocator then reuses it in stream order.
    std::optional<Tensor> scratch;
    if (!layer_fits)
      scratch = torch::stable::new_empty(
          call.activations, {shape.samples, shape.layer_pixels()}, operands.heatmaps.scalar_type());

    CamArguments<T, Acc> args;
    args.shape = shape;
    args.activations = call.activations.const_data_ptr<T>();
    args.activation_strides = operands.activations;
    args.gradients = call.gradients ? call.gradients->const_data_ptr<T>() : nullptr;
    args.gradient_strides = operands.gradients;
    args.weights = call.weights ? call.weights->const_data_ptr<Acc>() : nullptr;
    args.weights_sample = operands.weights_sample;
    args.weights_channel = operands.weights_channel;
    args.scratch = scratch ? scratch->mutable_data_ptr<Acc>() : nullptr;
    args.heatmaps = operands.heatmaps.mutable_data_ptr<Acc>();
    args.ranges = operands.ranges.mutable_data_ptr<Acc>();
    args.relu = call.relu;
    args.normalize = call.normalize;

    const int64_t bytes = SharedLayout<Acc>::bytes(warps, layer_fits ? shape.layer_pixels() : 0);
    cam_kernel<T, Acc><<<static_cast<unsigned>(shape.samples), kThreads, bytes, launch.stream()>>>(args);
    launch.check();
  }
};

}  // namespace
}  // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) {
  m.impl("cam", TORCH_BOX(&camfast::cam<camfast::Cuda>));
}
