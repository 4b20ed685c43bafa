// Runs csrc/cuda/cam_kernel.cuh on the host. Reads one case from standard input, writes heatmaps and ranges to standard
// output, both raw: host_kernels.py has the other end. The argument, if any, is the number of a barrier to leave out.

#include "execution_model.h"
#include "streams.h"

#include KERNEL

#include <bit>

namespace {

struct BFloat16 {
  std::uint16_t bits;
  operator float() const { return std::bit_cast<float>(std::uint32_t(bits) << 16); }
};

struct Case {
  std::int64_t type, rule, maps, maps_per_sample, channels, layer_height, layer_width, height, width;
  std::int64_t activation_strides[4], gradient_strides[4];
  std::int64_t activation_count, gradient_count, weight_count;
  std::int64_t offset;  // of the first element of activations and gradients
  std::int64_t threads, cluster, shares, keep_layer_in_shared, relu, normalize;
};

camfast::Strides strides(const std::int64_t (&s)[4]) {
  return {s[0], s[1], s[2], s[3]};
}

template <typename Rule, typename T, typename Acc>
int run(const Case& c) {
  const auto activations = streams::read<T>(c.activation_count), gradients = streams::read<T>(c.gradient_count);
  const auto weights = streams::read<Acc>(c.weight_count);

  camfast::CamArguments<T, Acc> args;
  args.shape = {c.maps, c.maps_per_sample, c.channels, c.layer_height, c.layer_width, c.height, c.width};
  const std::int64_t blocks = c.maps * c.shares, layer_pixels = args.shape.layer_pixels();
  streams::Values<Acc> heatmaps(c.maps * args.shape.pixels(), Acc(-7)), ranges(2 * c.maps, Acc(-7));
  streams::Values<Acc> scratch(c.keep_layer_in_shared ? 0 : blocks * layer_pixels);
  args.activations = activations.data() + c.offset;
  args.activation_strides = strides(c.activation_strides);
  args.gradients = gradients.empty() ? nullptr : gradients.data() + c.offset;
  args.gradient_strides = strides(c.gradient_strides);
  args.weights = weights.empty() ? nullptr : weights.data();
  args.weights_map = c.channels;
  args.weights_channel = 1;
  args.scratch = scratch.empty() ? nullptr : scratch.data();
  args.heatmaps = heatmaps.data();
  args.ranges = ranges.data();
  args.relu = c.relu;
  args.normalize = c.normalize;
  args.shares = static_cast<int>(c.shares);

  const std::size_t bytes =
      camfast::CamShared<Acc>::bytes(static_cast<int>(c.threads), c.keep_layer_in_shared ? layer_pixels : 0);
  if (!execution::launch(
          static_cast<int>(blocks), static_cast<int>(c.cluster), static_cast<int>(c.threads), bytes,
          [&] { camfast::cam_kernel<Rule, T, Acc>(args); }))
    return 4;
  streams::write(heatmaps);
  streams::write(ranges);
  return 0;
}

// Every rule in float32; in the other types one of either kind, which is what differs between types.
template <typename T, typename Acc>
int run_some(const Case& c) {
  if (camfast::RuleId(c.rule) == camfast::RuleId::kGradCam) return run<camfast::GradCam, T, Acc>(c);
  return run<camfast::HiResCam, T, Acc>(c);
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) execution::lost = std::atoi(arguments[1]);
  const Case c = streams::read<Case>(1)[0];
  if (c.type == 1) return run_some<double, double>(c);
  if (c.type == 2) return run_some<_Float16, float>(c);
  if (c.type == 3) return run_some<BFloat16, float>(c);
  int status = 2;
  camfast::with_rule(
      camfast::RuleId(c.rule), [&](auto rule) { status = run<decltype(rule), float, float>(c); });
  return status;
}
