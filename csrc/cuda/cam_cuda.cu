// Launches cam_kernel.cuh: how many blocks a map gets, shared memory, stream, registration.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../cam_operator.h"
#include "cam_kernel.cuh"
#include "launch.h"

namespace camfast {
namespace {

// The blocks of one map: `shares`, in clusters of `cluster`.
struct Spread {
  int cluster, shares;
};

// Few maps are spread over many blocks, until the device is full or a block's part is too small to be worth it.
Spread spread(const Shape& shape, int multiprocessors, bool clusters) {
  constexpr int64_t worth_a_block = 8192;  // elements
  constexpr int largest_cluster = 8;       // that every device grants
  const auto fits = [&](int64_t shares) { return shape.maps * shares <= multiprocessors; };
  const int64_t read = shape.channels * shape.layer_pixels();
  Spread result{1, 1};
  if (clusters)
    while (result.cluster < largest_cluster && fits(2 * result.cluster) && read > worth_a_block * result.cluster)
      result.cluster *= 2;
  result.shares = result.cluster;
  // More blocks read everything again: only for the sake of what they write.
  while (fits(2 * result.shares) && shape.pixels() > worth_a_block * result.shares &&
         shape.pixels() / result.shares > read / result.cluster / 4)
    result.shares *= 2;
  return result;
}

struct Cuda {
  template <typename T, typename Acc>
  static void run(const Call& call, const Results& results) {
    with_rule(call.rule, [&](auto rule) { run_rule<decltype(rule), T, Acc>(call, results); });
  }

 private:
  template <typename Rule, typename T, typename Acc>
  static void run_rule(const Call& call, const Results& results) {
    constexpr auto kernel = cam_kernel<Rule, T, Acc>;
    const Shape& shape = call.shape;
    const Launch launch(call.activations);
    STD_TORCH_CHECK(shape.layer_pixels() < int64_t(1) << 30, "camfast::cam: at most 2^30 layer positions on CUDA");
    const auto [cluster, shares] = spread(shape, launch.multiprocessors(), launch.has_clusters<kernel>());
    const int64_t blocks = shape.maps * shares;
    STD_TORCH_CHECK(blocks < int64_t(1) << 31, "camfast::cam: at most 2^31 - 1 maps on CUDA");

    // Kept until the launch is queued; the caching allocator then reuses it in stream order.
    std::optional<Tensor> scratch;
    int64_t bytes = CamShared<Acc>::bytes(kCamThreads, shape.layer_pixels());
    if (bytes > launch.shared_bytes()) {
      bytes = CamShared<Acc>::bytes(kCamThreads, 0);
      scratch = torch::stable::new_empty(
          call.activations, {blocks, shape.layer_pixels()}, results.heatmaps.scalar_type());
    }

    CamArguments<T, Acc> args;
    args.shape = shape;
    args.activations = call.activations.const_data_ptr<T>();
    args.activation_strides = call.activation_strides;
    args.gradients = call.gradients ? call.gradients->const_data_ptr<T>() : nullptr;
    args.gradient_strides = call.gradient_strides;
    args.weights = call.weights ? call.weights->const_data_ptr<Acc>() : nullptr;
    args.weights_map = call.weights_map;
    args.weights_channel = call.weights_channel;
    args.scratch = scratch ? scratch->mutable_data_ptr<Acc>() : nullptr;
    args.heatmaps = results.heatmaps.mutable_data_ptr<Acc>();
    args.ranges = results.ranges.mutable_data_ptr<Acc>();
    args.relu = call.relu;
    args.normalize = call.normalize;
    args.shares = shares;
    launch.run<kernel>(blocks, cluster, kCamThreads, bytes, args);
  }
};

}  // namespace
}  // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) {
  m.impl("cam", TORCH_BOX(&camfast::cam<camfast::Cuda>));
  m.impl("cam.out", TORCH_BOX(&camfast::cam_out<camfast::Cuda>));
}
