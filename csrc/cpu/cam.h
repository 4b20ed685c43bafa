// Class activation maps on the CPU, step by step and in parallel. No torch header: `parallel(count, cost, work)` is what
// runs work(begin, end) over parts of [0, count), given what one of them costs, and tests bring their own.
//
//   1. sums    planes: a task a block of channels, each to a partial map
//              channels-last: a task some channels (their weights), then a task some positions
//   2. ranges  a task a map: its partial maps together, ReLU, and the range at the corners
//   3. rows    a task some rows of a heatmap, written once and finished
//
// How the work is cut depends on the shape alone, and partial results are added in a fixed order: the number of threads
// changes no bit, nor do the other maps.
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
  const Acc* weights;  // [M, C], or null
  int64_t weights_map, weights_channel;
  Acc* heatmaps;  // [M, H, W]
  Acc* ranges;    // [M, 2]
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

// 1. for planes: partial maps [M, blocks, slots].
template <typename T, typename Acc, typename Parallel>
void sum_planes(const CpuCam<T, Acc>& call, int64_t blocks, Acc* partials, const Parallel& parallel) {
  const Shape& shape = call.shape;
  const auto accumulate = kernels().cam<T>().accumulate[int(call.rule)];
  const auto contiguous = [&](const Strides& strides) {
    return planes_are_contiguous(strides, shape.layer_height, shape.layer_width);
  };
  const bool pack = !contiguous(call.activation_strides) ||
                    (call.gradients != nullptr && !contiguous(call.gradient_strides));
  const int64_t pixels = shape.layer_pixels();
  parallel(shape.maps * blocks, kBlockChannels * pixels, [&](int64_t begin, int64_t end) {
    const Buffer<Acc> packed(pack ? packed_size(pixels) : 0);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t m = unit / blocks, first = unit % blocks * kBlockChannels;
      ChannelBlock<T, Acc> block;
      block.activations = call.activations + shape.sample_of(m) * call.activation_strides.sample +
                          first * call.activation_strides.channel;
      block.activation_strides = call.activation_strides;
      block.gradients =
          call.gradients == nullptr
              ? nullptr
              : call.gradients + m * call.gradient_strides.sample + first * call.gradient_strides.channel;
      block.gradient_strides = call.gradient_strides;
      block.weights = call.weights == nullptr ? nullptr : call.weights + m * call.weights_map + first * call.weights_channel;
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

// 1. for channels-last: maps [M, slots], of which the first h * w are used.
template <typename T, typename Acc, typename Parallel>
void sum_positions(const CpuCam<T, Acc>& call, Acc* layers, const Parallel& parallel) {
  const Shape& shape = call.shape;
  const auto& cam = kernels().cam<T>();
  const int64_t pixels = shape.layer_pixels();
  const auto positions = [&](int64_t m) {
    return PositionBlock<T, Acc>{
        call.activations + shape.sample_of(m) * call.activation_strides.sample,
        call.gradients == nullptr ? nullptr : call.gradients + m * call.gradient_strides.sample,
        call.activation_strides, call.gradient_strides, shape.channels, shape.layer_height, shape.layer_width};
  };

  const Buffer<Acc> weights(shape.maps * shape.channels);
  if (call.weights != nullptr) {
    for (int64_t m = 0; m < shape.maps; ++m)
      for (int64_t c = 0; c < shape.channels; ++c)
        weights.data()[m * shape.channels + c] = call.weights[m * call.weights_map + c * call.weights_channel];
  } else if (weighs_channels(call.rule)) {
    const int64_t groups = round_up(shape.channels, kWeightChannels) / kWeightChannels;
    parallel(shape.maps * groups, kWeightChannels * pixels, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t m = unit / groups, first = unit % groups * kWeightChannels;
        cam.weigh[int(call.rule)](
            positions(m), first, std::min(first + kWeightChannels, shape.channels),
            weights.data() + m * shape.channels);
      }
    });
  }
  parallel(shape.maps * pixels, shape.channels, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t m = begin / pixels, stop = std::min(end, (m + 1) * pixels);
      cam.sum_channels[int(call.rule)](
          positions(m), weights.data() + m * shape.channels, begin - m * pixels, stop - m * pixels,
          layers + m * slots(pixels));
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

  const Buffer<Acc> partials(shape.maps * blocks * slots(pixels));
  if (channels_last)
    sum_positions(call, partials.data(), parallel);
  else
    sum_planes(call, blocks, partials.data(), parallel);

  const Buffer<Acc> rows(shape.maps * shape.layer_height * pitch);
  const Buffer<Finish<Acc>> finishes(shape.maps);
  const auto map_of = [&](int64_t m) {
    return RowMap<Acc>{rows.data() + m * shape.layer_height * pitch, shape.layer_height, shape.layer_width};
  };
  const auto corners = ColumnTable<Acc>::of_corners(shape.layer_width, shape.width, maps);
  parallel(shape.maps, blocks * slots(pixels), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      Acc* layer = partials.data() + m * blocks * slots(pixels);
      if (!channels_last) maps.collect(layer, blocks, pixels);
      Range<Acc> range{std::numeric_limits<Acc>::quiet_NaN(), std::numeric_limits<Acc>::quiet_NaN()};
      if (maps.lay_rows(layer, shape.layer_height, shape.layer_width, call.relu, rows.data() + m * shape.layer_height * pitch))
        range = corner_range(map_of(m), shape.height, corners.columns(), maps);
      call.ranges[2 * m] = range.low;
      call.ranges[2 * m + 1] = range.high;
      finishes.data()[m] = call.normalize ? Finish<Acc>::normalized(range) : Finish<Acc>::unchanged(range);
    }
  });

  const ColumnTable<Acc> columns(shape.layer_width, shape.width, maps);
  const bool stream = shape.maps * shape.pixels() * int64_t(sizeof(Acc)) > kStreamBytes &&
                      shape.width * int64_t(sizeof(Acc)) % kCacheLine == 0 &&
                      reinterpret_cast<uintptr_t>(call.heatmaps) % kCacheLine == 0;
  parallel(shape.maps * shape.height, shape.width, [&](int64_t begin, int64_t end) {
    const Buffer<Acc> row(2 * pitch);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t m = unit / shape.height;
      Acc* out = call.heatmaps + unit * shape.width;
      if (call.ranges[2 * m] != call.ranges[2 * m]) {
        std::fill_n(out, shape.width, Acc(0));
        continue;
      }
      map_of(m).at(unit % shape.height, shape.height, [&](const Acc* lower, const Acc* upper, Acc fraction) {
        maps.interpolate_row(lower, upper, fraction, columns.columns(), finishes.data()[m], row.data(), out, stream);
      });
    }
#if defined(__x86_64__)
    if (stream) __builtin_ia32_sfence();  // such stores are ordered with nothing
#endif
  });
}

}  // namespace camfast
