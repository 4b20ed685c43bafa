// Runs csrc/cuda/cam_kernel.cuh on the host. Reads one case from standard input, writes heatmaps and ranges to standard
// output, both raw: test_cuda_on_host.py has the other end.

#include "execution_model.h"

#include KERNEL

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::size_t kSharedBytes = 64 * 1024;
constexpr unsigned char kUntouched = 0xA5;

struct Case {
  std::int64_t type, samples, channels, layer_height, layer_width, height, width;
  std::int64_t activation_strides[4], gradient_strides[4];
  std::int64_t activation_count, gradient_count, weight_count;
  std::int64_t threads, keep_layer_in_shared, relu, normalize;
};

template <typename T>
std::vector<T> read(std::int64_t count) {
  std::vector<T> values(count);
  if (count > 0 && std::fread(values.data(), sizeof(T), count, stdin) != std::size_t(count)) std::exit(2);
  return values;
}

camfast::Strides strides(const std::int64_t (&s)[4]) {
  return {s[0], s[1], s[2], s[3]};
}

}  // namespace

namespace camfast {
alignas(16) unsigned char shared_memory[kSharedBytes];
}

namespace {

template <typename T, typename Acc>
int run(const Case& c) {
  const std::vector<T> activations = read<T>(c.activation_count), gradients = read<T>(c.gradient_count);
  const std::vector<Acc> weights = read<Acc>(c.weight_count);

  camfast::CamArguments<T, Acc> args;
  args.shape = {c.samples, c.channels, c.layer_height, c.layer_width, c.height, c.width};
  std::vector<Acc> heatmaps(c.samples * args.shape.pixels()), ranges(2 * c.samples);
  std::vector<Acc> scratch(c.keep_layer_in_shared ? 0 : c.samples * args.shape.layer_pixels());
  args.activations = activations.data();
  args.activation_strides = strides(c.activation_strides);
  args.gradients = gradients.empty() ? nullptr : gradients.data();
  args.gradient_strides = strides(c.gradient_strides);
  args.weights = weights.empty() ? nullptr : weights.data();
  args.weights_sample = c.channels;
  args.weights_channel = 1;
  args.scratch = scratch.empty() ? nullptr : scratch.data();
  args.heatmaps = heatmaps.data();
  args.ranges = ranges.data();
  args.relu = c.relu;
  args.normalize = c.normalize;

  const std::size_t bytes = camfast::SharedLayout<Acc>::bytes(
      c.threads / camfast::kWarpSize, c.keep_layer_in_shared ? args.shape.layer_pixels() : 0);
  if (bytes > kSharedBytes) return 3;
  std::memset(camfast::shared_memory, kUntouched, kSharedBytes);
  execution::launch(c.samples, c.threads, [&] { camfast::cam_kernel<T, Acc>(args); });
  for (std::size_t i = bytes; i < kSharedBytes; ++i)
    if (camfast::shared_memory[i] != kUntouched) return 4;  // wrote past the shared memory it asked for

  std::fwrite(heatmaps.data(), sizeof(Acc), heatmaps.size(), stdout);
  std::fwrite(ranges.data(), sizeof(Acc), ranges.size(), stdout);
  return 0;
}

}  // namespace

int main() {
  const Case c = read<Case>(1)[0];
  if (c.type == 0) return run<float, float>(c);
  if (c.type == 1) return run<double, double>(c);
  return run<_Float16, float>(c);
}
