// What the overlays do in every backend: check the operands, and describe the planes to a backend. As in
// cam_operator.h, these checks guard memory.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <optional>
#include <vector>

#include "overlay_arguments.h"

namespace camfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Everything but the frames; checked.
inline OverlayArguments check_overlay(
    const Tensor& first,  // frames, or the luma plane: its dimensions are N, H, W
    const Tensor& heatmaps,
    const Tensor& colors,
    double alpha,
    const std::vector<int64_t>& region,
    const std::optional<Tensor>& ranges,
    bool normalize) {
  constexpr int64_t longest_side = int64_t(1) << 30;
  STD_TORCH_CHECK(heatmaps.scalar_type() == ScalarType::Float, "camfast::overlay: heatmaps must be float32");
  STD_TORCH_CHECK(
      heatmaps.dim() == 3 && heatmaps.size(0) == first.size(0), "camfast::overlay: heatmaps must be [N, h, w]");
  STD_TORCH_CHECK(
      heatmaps.size(1) > 0 && heatmaps.size(2) > 0 && heatmaps.size(1) < longest_side && heatmaps.size(2) < longest_side,
      "camfast::overlay: the sides of heatmaps must lie in [1, 2^30)");
  STD_TORCH_CHECK(
      is_countable(heatmaps.size(0), heatmaps.size(1), heatmaps.size(2)), "camfast::overlay: heatmaps are too large");
  STD_TORCH_CHECK(first.size(1) < longest_side && first.size(2) < longest_side, "camfast::overlay: frames are too large");
  STD_TORCH_CHECK(
      colors.scalar_type() == ScalarType::Byte && colors.dim() == 2 && colors.size(0) == kLevels && colors.size(1) == 3 &&
          colors.is_contiguous(),
      "camfast::overlay: colors must be uint8 [256, 3], contiguous");
  STD_TORCH_CHECK(alpha >= 0 && alpha <= 1, "camfast::overlay: alpha must lie in [0, 1]");
  STD_TORCH_CHECK(region.size() == 4, "camfast::overlay: region must be (top, left, height, width)");
  STD_TORCH_CHECK(
      region[0] >= 0 && region[1] >= 0 && region[2] >= 0 && region[3] >= 0 && region[0] <= first.size(1) &&
          region[2] <= first.size(1) - region[0] && region[1] <= first.size(2) && region[3] <= first.size(2) - region[1],
      "camfast::overlay: region must lie in the frame");
  STD_TORCH_CHECK(
      heatmaps.device() == first.device() && colors.device() == first.device(),
      "camfast::overlay: heatmaps and colors must be on the device of the frames");
  STD_TORCH_CHECK(!(ranges.has_value() && normalize), "camfast::overlay: give ranges or normalize, not both");

  OverlayArguments arguments;
  arguments.samples = first.size(0);
  arguments.height = first.size(1);
  arguments.width = first.size(2);
  arguments.region = {region[0], region[1], region[2], region[3]};
  arguments.maps = heatmaps.const_data_ptr<float>();
  arguments.map_height = heatmaps.size(1);
  arguments.map_width = heatmaps.size(2);
  arguments.map_sample = heatmaps.stride(0);
  arguments.map_row = heatmaps.stride(1);
  arguments.map_column = heatmaps.stride(2);
  arguments.colors = colors.const_data_ptr<uint8_t>();
  arguments.opacity = static_cast<int>(std::lround(alpha * kOpaque));
  arguments.normalize = normalize;
  if (ranges.has_value()) {
    STD_TORCH_CHECK(
        ranges->scalar_type() == ScalarType::Float && ranges->dim() == 2 && ranges->size(0) == first.size(0) &&
            ranges->size(1) == 2,
        "camfast::overlay: ranges must be float32 [N, 2]");
    STD_TORCH_CHECK(ranges->device() == first.device(), "camfast::overlay: ranges must be on the device of the frames");
    arguments.ranges = ranges->const_data_ptr<float>();
    arguments.range_sample = ranges->stride(0);
    arguments.range_end = ranges->stride(1);
  }
  return arguments;
}

inline void check_frames(const Tensor& frames) {
  STD_TORCH_CHECK(
      frames.scalar_type() == ScalarType::Byte && frames.dim() == 4 && frames.size(3) == 3,
      "camfast::overlay: frames must be uint8 [N, H, W, 3]");
}

// A [N, H, W] plane, or one channel of [N, H, W, 3].
inline Plane plane_of(const Tensor& tensor, int64_t channel = 0) {
  const int64_t offset = tensor.dim() == 4 ? channel * tensor.stride(3) : 0;
  return {tensor.mutable_data_ptr<uint8_t>() + offset, tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

inline ConstPlane const_plane_of(const Tensor& tensor, int64_t channel = 0) {
  const int64_t offset = tensor.dim() == 4 ? channel * tensor.stride(3) : 0;
  return {tensor.const_data_ptr<uint8_t>() + offset, tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

// The operators, for a backend that has
//   static void rgb(const RgbOverlay&, const Tensor& on)
//   static void yuv420(const Yuv420Overlay&, const Tensor& on)
// where `on` is a tensor on the device to use.
template <typename Backend>
Tensor overlay(
    const Tensor& frames,
    const Tensor& heatmaps,
    const Tensor& colors,
    double alpha,
    const std::vector<int64_t>& region,
    const std::optional<Tensor>& ranges,
    bool normalize) {
  check_frames(frames);
  RgbOverlay call{check_overlay(frames, heatmaps, colors, alpha, region, ranges, normalize), {}, {}};
  const Tensor result = torch::stable::empty_like(frames);
  if (frames.numel() == 0) return result;
  for (int channel = 0; channel < 3; ++channel) {
    call.from[channel] = const_plane_of(frames, channel);
    call.to[channel] = plane_of(result, channel);
  }
  Backend::rgb(call, frames);
  return result;
}

template <typename Backend>
void overlay_(
    const Tensor& frames,
    const Tensor& heatmaps,
    const Tensor& colors,
    double alpha,
    const std::vector<int64_t>& region,
    const std::optional<Tensor>& ranges,
    bool normalize) {
  check_frames(frames);
  RgbOverlay call{check_overlay(frames, heatmaps, colors, alpha, region, ranges, normalize), {}, {}};
  if (frames.numel() == 0 || call.region.height == 0 || call.region.width == 0) return;
  for (int channel = 0; channel < 3; ++channel) {
    call.to[channel] = plane_of(frames, channel);
    call.from[channel] = {call.to[channel].data, frames.stride(0), frames.stride(1), frames.stride(2)};
  }
  Backend::rgb(call, frames);
}

template <typename Backend>
void overlay_yuv420_(
    const Tensor& luma,
    const Tensor& blue,
    const Tensor& red,
    const Tensor& heatmaps,
    const Tensor& colors,
    double alpha,
    const std::vector<int64_t>& region,
    const std::optional<Tensor>& ranges,
    bool normalize) {
  STD_TORCH_CHECK(
      luma.scalar_type() == ScalarType::Byte && luma.dim() == 3, "camfast::overlay: luma must be uint8 [N, H, W]");
  for (const Tensor* chroma : {&blue, &red}) {
    STD_TORCH_CHECK(
        chroma->scalar_type() == ScalarType::Byte && chroma->dim() == 3 && chroma->size(0) == luma.size(0) &&
            chroma->size(1) == (luma.size(1) + 1) / 2 && chroma->size(2) == (luma.size(2) + 1) / 2,
        "camfast::overlay: blue and red must be uint8 [N, ceil(H / 2), ceil(W / 2)]");
    STD_TORCH_CHECK(chroma->device() == luma.device(), "camfast::overlay: planes must be on one device");
  }
  Yuv420Overlay call{check_overlay(luma, heatmaps, colors, alpha, region, ranges, normalize), {}, {}, {}};
  if (luma.numel() == 0 || call.region.height == 0 || call.region.width == 0) return;
  call.luma = plane_of(luma);
  call.blue = plane_of(blue);
  call.red = plane_of(red);
  Backend::yuv420(call, luma);
}

}  // namespace camfast
