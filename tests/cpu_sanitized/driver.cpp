// Runs the CPU operators without torch, so that sanitizers see every access. Reads one case from standard input, writes
// its results to standard output, both raw: test_cpu_sanitized.py has the other end. Every operand lies in a block of
// memory of exactly its size.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "../../csrc/cpu/cam.h"
#include "../../csrc/cpu/overlay.h"
#include "../../csrc/cpu/quantize.h"

namespace {

template <typename T>
struct Block {
  int64_t count;
  std::unique_ptr<T[]> data;
};

int64_t number() {
  int64_t value;
  if (std::fread(&value, sizeof value, 1, stdin) != 1) std::exit(2);
  return value;
}


// A count, then as many values.
template <typename T>
Block<T> block() {
  const int64_t count = number();
  Block<T> result{count, std::unique_ptr<T[]>(count > 0 ? new T[count] : nullptr)};
  if (count > 0 && std::fread(result.data.get(), sizeof(T), count, stdin) != std::size_t(count)) std::exit(2);
  return result;
}

template <typename T>
void write(const Block<T>& result) {
  std::fwrite(result.data.get(), sizeof(T), result.count, stdout);
}

// Cuts the work into as many parts as there are threads, whatever it costs.
struct Threads {
  int64_t count;

  template <typename Work>
  void operator()(int64_t units, int64_t, const Work& work) const {
    std::vector<std::thread> running;
    const int64_t part = (units + count - 1) / count;
    for (int64_t begin = 0; begin < units; begin += part)
      running.emplace_back([=, &work] { work(begin, std::min(begin + part, units)); });
    for (std::thread& thread : running) thread.join();
  }
};

template <typename T, typename Acc>
void run_cam(const Threads& threads) {
  camfast::CpuCam<T, Acc> call;
  call.rule = camfast::RuleId(number());
  call.relu = number();
  call.normalize = number();
  camfast::Shape& shape = call.shape;
  for (int64_t* side : {&shape.maps, &shape.maps_per_sample, &shape.channels, &shape.layer_height, &shape.layer_width,
                        &shape.height, &shape.width})
    *side = number();
  const auto tensor = [](camfast::Strides& strides, const Block<T>& storage) -> const T* {
    const int64_t offset = number();
    strides = {number(), number(), number(), number()};
    return storage.count > 0 ? storage.data.get() + offset : nullptr;
  };
  const Block<T> activations = block<T>();
  call.activations = tensor(call.activation_strides, activations);
  const Block<T> gradients = block<T>();
  call.gradients = tensor(call.gradient_strides, gradients);
  const Block<Acc> weights = block<Acc>();
  call.weights = weights.count > 0 ? weights.data.get() : nullptr;
  call.weights_map = number();
  call.weights_channel = number();
  const Block<Acc> heatmaps{shape.maps * shape.pixels(), std::unique_ptr<Acc[]>(new Acc[shape.maps * shape.pixels()])};
  const Block<Acc> ranges{2 * shape.maps, std::unique_ptr<Acc[]>(new Acc[2 * shape.maps])};
  call.heatmaps = heatmaps.data.get();
  call.ranges = ranges.data.get();
  camfast::compute_cam(call, threads);
  write(heatmaps);
  write(ranges);
}

camfast::Plane plane(const Block<uint8_t>& storage) {
  const int64_t offset = number();
  return {storage.data.get() + offset, number(), number(), number()};
}

template <typename T>
void run_quantize(const Threads& threads) {
  const Block<float> scale = block<float>();  // and zero
  const Block<T> values = block<T>();
  const Block<uint8_t> integers{values.count, std::unique_ptr<uint8_t[]>(new uint8_t[values.count])};
  camfast::compute_quantized(
      values.data.get(), values.count, scale.data[0], scale.data[1], integers.data.get(), threads);
  write(integers);
}

// kind 0: packed or other RGB in one block; 1: YUV 4:2:0 in three.
void run_overlay(int64_t kind, const Threads& threads) {
  camfast::OverlayArguments call;
  for (int64_t* side : {&call.samples, &call.height, &call.width, &call.region.top, &call.region.left, &call.region.height,
                        &call.region.width, &call.map_height, &call.map_width, &call.map_sample, &call.map_row,
                        &call.map_column})
    *side = number();
  call.opacity = static_cast<int>(number());
  call.normalize = number();
  const Block<float> maps = block<float>();
  call.maps = maps.data.get();
  const Block<uint8_t> colors = block<uint8_t>();
  call.colors = colors.data.get();
  const Block<float> ranges = block<float>();
  call.ranges = ranges.count > 0 ? ranges.data.get() : nullptr;
  call.range_sample = 2;
  call.range_end = 1;
  if (kind == 0) {
    const Block<uint8_t> frames = block<uint8_t>();
    camfast::RgbOverlay rgb{call, {}, {}};
    for (int c = 0; c < 3; ++c) {
      rgb.to[c] = plane(frames);
      rgb.from[c] = {rgb.to[c].data, rgb.to[c].sample, rgb.to[c].row, rgb.to[c].column};
    }
    // To other frames first, of the same strides, and then in place: both must give the same.
    const Block<uint8_t> others{frames.count, std::unique_ptr<uint8_t[]>(new uint8_t[frames.count])};
    std::copy_n(frames.data.get(), frames.count, others.data.get());
    camfast::RgbOverlay apart = rgb;
    for (int c = 0; c < 3; ++c) apart.to[c].data = others.data.get() + (rgb.to[c].data - frames.data.get());
    camfast::compute_rgb_overlay(apart, threads);
    camfast::compute_rgb_overlay(rgb, threads);
    if (!std::equal(frames.data.get(), frames.data.get() + frames.count, others.data.get())) std::exit(3);
    write(frames);
  } else {
    const Block<uint8_t> luma = block<uint8_t>(), blue = block<uint8_t>(), red = block<uint8_t>();
    camfast::Yuv420Overlay yuv{call, {}, {}, {}};
    yuv.luma = plane(luma);
    yuv.blue = plane(blue);
    yuv.red = plane(red);
    camfast::compute_yuv420_overlay(yuv, threads);
    for (const Block<uint8_t>* storage : {&luma, &blue, &red}) write(*storage);
  }
}

}  // namespace

int main() {
  const int64_t operation = number();
  const Threads threads{number()};
  switch (operation) {
    case 0:
      run_cam<float, float>(threads);
      break;
    case 1:
      run_cam<double, double>(threads);
      break;
    case 2:
      run_cam<camfast::Float16, float>(threads);
      break;
    case 3:
      run_cam<camfast::BFloat16, float>(threads);
      break;
    case 4:
    case 5:
      run_overlay(operation - 4, threads);
      break;
    case 6:
      run_quantize<float>(threads);
      break;
    case 7:
      run_quantize<camfast::Float16>(threads);
      break;
    default:
      run_quantize<camfast::BFloat16>(threads);
  }
  return 0;
}
