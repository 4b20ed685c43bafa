// Class activation maps on the CPU, step by step and in parallel. No torch header: `parallel(count, cost, work)` is what
// runs work(begin, end) over parts of [0, count), given what one of them costs, and tests bring their own.
//
//   1. sums    planes: a task a block of channels of a sample, each to a partial map
//              channels-last: a task some channels of a sample (weights), then a task some of its positions (the map)
//   2. ranges  a task a sample: its partial maps together, ReLU, and the range at the corners
//   3. rows    a task some rows of a heatmap, written once and finished
//
// How the work is cut depends on the shape alone, and partial results are added in a fixed order: the number of threads
// changes no bit, nor does the rest of the batch.
#pragma once

#include <limits>
#include <type_traits>

#include "columns.h"

namespace camfast {

// One call. Results are contiguous.
template <typename T, typename Acc>
struct CpuCam {
  Shape shape;
  RuleId rule;
  bool relu, normalize;
  const T* activations;
  Strides activation_strides;
  const T* gradients;  // or null
  Strides gradient_strides;
  const Acc* weights;  // [N, C], or null
  int64_t weights_sample, weights_channel;
  Acc* heatmaps;  // [N, H, W]
  Acc* ranges;    // [N, 2]
};

constexpr int64_t kBlockChannels = 32;               // channels of a partial map
constexpr int64_t kWeightChannels = 256;             // channels that are weighed together in channels-last
constexpr int64_t kStreamBytes = int64_t(32) << 20;  // results larger than this go past the caches
constexpr int64_t kCacheLine = 64;

// Whether the rule makes a weight for every channel.
inline bool weighs_channels(RuleId id) {
  bool weighs = false;
  with_rule(id, [&]<typename Rule>(Rule) { weighs = !Rule::kElementwise && !std::is_same_v<Rule, GivenWeights>; });
  return weighs;
}

inline bool planes_are_contiguous(const Strides& strides, const Shape& shape) {
  return strides.column == 1 && strides.row == shape.layer_width && shape.layer_pixels() >= kLanes;
}

// 1. for planes: partial maps [N, blocks, slots].
template <typename T, typename Acc, typename Parallel>
void sum_planes(const CpuCam<T, Acc>& call, int64_t blocks, Acc* partials, const Parallel& parallel) {
  const Shape& shape = call.shape;
  const auto accumulate = kernels().cam<T>().accumulate[int(call.rule)];
  const bool pack = !planes_are_contiguous(call.activation_strides, shape) ||
                    (call.gradients != nullptr && !planes_are_contiguous(call.gradient_strides, shape));
  const int64_t pixels = shape.layer_pixels();
  parallel(shape.samples * blocks, kBlockChannels * pixels, [&](int64_t begin, int64_t end) {
    const Buffer<Acc> packed(pack ? packed_size(pixels) : 0);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / blocks, first = unit % blocks * kBlockChannels;
      ChannelBlock<T, Acc> block;
      block.activations = call.activations + n * call.activation_strides.sample + first * call.activation_strides.channel;
      block.activation_strides = call.activation_strides;
      block.gradients =
          call.gradients == nullptr
              ? nullptr
              : call.gradients + n * call.gradient_strides.sample + first * call.gradient_strides.channel;
      block.gradient_strides = call.gradient_strides;
      block.weights = call.weights == nullptr ? nullptr : call.weights + n * call.weights_sample + first * call.weights_channel;
      block.weights_stride = call.weights_channel;
      block.channels = std::min(kBlockChannels, shape.channels - first);
      block.height = shape.layer_height;
      block.width = shape.layer_width;
      block.packed = pack ? packed.data() : nullptr;
      block.sums = partials + unit * slots(pixels);
      accumulate(block);
    }
  });
}

// 1. for channels-last: maps [N, slots], of which the first h * w are used.
template <typename T, typename Acc, typename Parallel>
void sum_positions(const CpuCam<T, Acc>& call, Acc* layers, const Parallel& parallel) {
  const Shape& shape = call.shape;
  const auto& cam = kernels().cam<T>();
  const int64_t pixels = shape.layer_pixels();
  const auto positions = [&](int64_t n) {
    return PositionBlock<T, Acc>{
        call.activations + n * call.activation_strides.sample,
        call.gradients == nullptr ? nullptr : call.gradients + n * call.gradient_strides.sample,
        call.activation_strides, call.gradient_strides, shape.channels, shape.layer_height, shape.layer_width};
  };

  const Buffer<Acc> weights(shape.samples * shape.channels);
  if (call.weights != nullptr) {
    for (int64_t n = 0; n < shape.samples; ++n)
      for (int64_t c = 0; c < shape.channels; ++c)
        weights.data()[n * shape.channels + c] = call.weights[n * call.weights_sample + c * call.weights_channel];
  } else if (weighs_channels(call.rule)) {
    const int64_t groups = round_up(shape.channels, kWeightChannels) / kWeightChannels;
    parallel(shape.samples * groups, kWeightChannels * pixels, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / groups, first = unit % groups * kWeightChannels;
        cam.weigh[int(call.rule)](
            positions(n), first, std::min(first + kWeightChannels, shape.channels),
            weights.data() + n * shape.channels);
      }
    });
  }
  parallel(shape.samples * pixels, shape.channels, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t n = begin / pixels, stop = std::min(end, (n + 1) * pixels);
      cam.sum_channels[int(call.rule)](
          positions(n), weights.data() + n * shape.channels, begin - n * pixels, stop - n * pixels,
          layers + n * slots(pixels));
      begin = stop;
    }
  });
}

template <typename T, typename Acc, typename Parallel>
void compute_cam(const CpuCam<T, Acc>& call, const Parallel& parallel) {
  const Shape& shape = call.shape;
  const auto& maps = kernels().maps<Acc>();
  const int64_t pixels = shape.layer_pixels(), pitch = row_pitch(shape.layer_width);
  const bool channels_last = shape.channels >= kLanes && call.activation_strides.channel == 1 &&
                             (call.gradients == nullptr || call.gradient_strides.channel == 1);
  const int64_t blocks = channels_last ? 1 : round_up(shape.channels, kBlockChannels) / kBlockChannels;

  const Buffer<Acc> partials(shape.samples * blocks * slots(pixels));
  if (channels_last)
    sum_positions(call, partials.data(), parallel);
  else
    sum_planes(call, blocks, partials.data(), parallel);

  const Buffer<Acc> rows(shape.samples * shape.layer_height * pitch);
  const Buffer<Finish<Acc>> finishes(shape.samples);
  const auto map_of = [&](int64_t n) {
    return RowMap<Acc>{rows.data() + n * shape.layer_height * pitch, shape.layer_height, shape.layer_width};
  };
  const auto corners = ColumnTable<Acc>::of_corners(shape.layer_width, shape.width, maps);
  parallel(shape.samples, blocks * slots(pixels), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      Acc* layer = partials.data() + n * blocks * slots(pixels);
      if (!channels_last) maps.collect(layer, blocks, pixels);
      Range<Acc> range{std::numeric_limits<Acc>::quiet_NaN(), std::numeric_limits<Acc>::quiet_NaN()};
      if (maps.lay_rows(layer, shape.layer_height, shape.layer_width, call.relu, rows.data() + n * shape.layer_height * pitch))
        range = corner_range(map_of(n), shape.height, corners.columns(), maps);
      call.ranges[2 * n] = range.low;
      call.ranges[2 * n + 1] = range.high;
      finishes.data()[n] = call.normalize ? Finish<Acc>::normalized(range) : Finish<Acc>::unchanged(range);
    }
  });

  const ColumnTable<Acc> columns(shape.layer_width, shape.width, maps);
  const bool stream = shape.samples * shape.pixels() * int64_t(sizeof(Acc)) > kStreamBytes &&
                      shape.width * int64_t(sizeof(Acc)) % kCacheLine == 0 &&
                      reinterpret_cast<uintptr_t>(call.heatmaps) % kCacheLine == 0;
  parallel(shape.samples * shape.height, shape.width, [&](int64_t begin, int64_t end) {
    const Buffer<Acc> row(2 * pitch);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / shape.height;
      Acc* out = call.heatmaps + unit * shape.width;
      if (call.ranges[2 * n] != call.ranges[2 * n]) {
        std::fill_n(out, shape.width, Acc(0));
        continue;
      }
      map_of(n).at(unit % shape.height, shape.height, [&](const Acc* lower, const Acc* upper, Acc fraction) {
        maps.interpolate_row(lower, upper, fraction, columns.columns(), finishes.data()[n], row.data(), out, stream);
      });
    }
#if defined(__x86_64__)
    if (stream) __builtin_ia32_sfence();  // such stores are ordered with nothing
#endif
  });
}

}  // namespace camfast
