// Overlays on CUDA: one launch, in which every byte of the frame is read once and written once. No torch header, as in
// cam_kernel.cuh.
//
// A frame has `shares` blocks, each with some of its rows:
//
//   colors    into shared memory, one word each
//   finish    what makes levels of map values; the range of the map as drawn, where it is wanted, every block finds
//             for itself
//   pixels    patches as in interpolation.cuh, four neighbours at a time, in words where alignment allows it
//
//   rgb       1 x 4 pixels a thread:   R G B R | G B R G | B R G B   packed, three words
//                                      R R R R   G G G G   B B B B   planar, three words
//   yuv420    2 x 8 pixels a thread:   Y Y Y Y | Y Y Y Y             and the four samples of either chroma plane
//                                      Y Y Y Y | Y Y Y Y             U U U U   V V V V
#pragma once

#include <cstdint>

#include "../cam_math.h"
#include "../overlay_arguments.h"
#include "../overlay_math.h"
#include "cluster.cuh"
#include "interpolation.cuh"

namespace camfast {

constexpr int kOverlayThreads = 256;  // at most

// Dynamic shared memory of one block.
struct OverlayShared {
  uint32_t colors[kLevels];
  Tap<float> row_taps[kOverlayThreads];
};

// What both overlays do before the first pixel, and what they know of theirs.
class Drawing {
 public:
  __device__ Drawing(const OverlayArguments& args, int64_t sample, OverlayShared& shared)
      : shared(shared),
        map{args.maps + sample * args.map_sample, args.map_row, args.map_column},
        region(args.region),
        // An empty region has no pixel to draw, but the frame around it may have to be copied.
        rows{args.map_height, region.height > 0 ? region.height : 1},
        columns{args.map_width, region.width > 0 ? region.width : 1} {
    for (int level = threadIdx.x; level < kLevels; level += blockDim.x) {
      const uint8_t* color = args.colors + 3 * level;
      shared.colors[level] = color[0] | uint32_t(color[1]) << 8 | uint32_t(color[2]) << 16;
    }
    Range<float> drawn = Range<float>::empty();
    if (args.normalize) drawn = interpolated_range(map, rows, columns, shared.row_taps);
    finish_ = args.finish(sample, drawn);
  }

  // visit(row, column, values) for patches of R rows and V columns of the frame.
  template <int R, int V, typename Visit>
  __device__ void each_patch(const Patches& patches, const Visit& visit) const {
    interpolate_patches<R, V>(
        map, rows, columns, patches, shared.row_taps, [&](int64_t row) { return row - region.top; },
        [&](int64_t column) { return column - region.left; }, visit);
  }

  __device__ int level(float value) const { return level_of(finish_(value)); }
  __device__ bool has_row(int64_t row) const { return row >= region.top && row < region.top + region.height; }
  // Bit v: whether the region has column + v.
  __device__ unsigned has_columns(int64_t column) const {
    unsigned mask = 0;
#pragma unroll
    for (int v = 0; v < 4; ++v)
      mask |= unsigned(column + v >= region.left && column + v < region.left + region.width) << v;
    return mask;
  }

 private:
  struct Map {
    const float* data;
    int64_t row, column;
    __device__ float operator()(int r, int c) const { return drawable(data[r * row + c * column]); }
  };

 public:
  OverlayShared& shared;
  const Map map;
  const Region& region;
  const Axis rows, columns;

 private:
  Finish<float> finish_;
};

// The share of a block in rows [begin, end), and which columns.
__device__ inline Patches share_of(int64_t begin, int64_t end, int64_t column_begin, int64_t column_end, int shares) {
  const int64_t share = blockIdx.x % shares, count = end - begin;
  return {
      begin + count * share / shares, begin + count * (share + 1) / shares, static_cast<int>(column_begin),
      static_cast<int>(column_end)};
}

__device__ inline int byte_of(uint32_t word, int index) {
  return (word >> (8 * index)) & 0xff;
}

// Whether words can be taken at every fourth element of a plane's rows, elements being `step` bytes apart.
template <typename AnyPlane>
__device__ inline bool has_words(const AnyPlane& plane, int step) {
  return plane.column == step && reinterpret_cast<uintptr_t>(plane.data) % 4 == 0 && plane.sample % 4 == 0 &&
         plane.row % 4 == 0;
}

enum class Pixels { kPacked, kPlanar, kStrided };

template <typename AnyPlane>
__device__ inline Pixels pixels_of(const AnyPlane (&planes)[3]) {
  if (has_words(planes[0], 3) && planes[1].data == planes[0].data + 1 && planes[2].data == planes[0].data + 2)
    return Pixels::kPacked;
  if (has_words(planes[0], 1) && has_words(planes[1], 1) && has_words(planes[2], 1)) return Pixels::kPlanar;
  return Pixels::kStrided;
}

// Four pixels in three words; bit v of `mask`: blend the v-th.
template <Pixels kPixels>
__device__ inline void blend_words(
    const uint32_t (&from)[3], uint32_t (&to)[3], const uint32_t (&colors)[4], unsigned mask, int opacity) {
#pragma unroll
  for (int v = 0; v < 4; ++v) {
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const int index = kPixels == Pixels::kPacked ? 3 * v + c : 4 * c + v;
      const int pixel = byte_of(from[index / 4], index % 4);
      const uint32_t blended = blend(pixel, byte_of(colors[v], c), mask >> v & 1 ? opacity : 0);
      to[index / 4] |= blended << (8 * (index % 4));
    }
  }
}

struct RgbArguments {
  RgbOverlay overlay;
  int shares;  // blocks of a frame
};

class RgbBlock {
 public:
  __device__ RgbBlock(const RgbArguments& args, OverlayShared& shared)
      : call_(args.overlay),
        sample_(blockIdx.x / args.shares),
        in_place_(call_.in_place()),
        pixels_(pixels_of(call_.from) == pixels_of(call_.to) ? pixels_of(call_.to) : Pixels::kStrided),
        drawing_(call_, sample_, shared),
        patches_(patches(args.shares)) {}

  __device__ void run() const {
    drawing_.each_patch<1, 4>(patches_, [&](int64_t row, int column, const float(&values)[1][4]) {
      const unsigned mask = drawing_.has_row(row) ? drawing_.has_columns(column) : 0;
      uint32_t colors[4];
#pragma unroll
      for (int v = 0; v < 4; ++v) colors[v] = drawing_.shared.colors[drawing_.level(values[0][v])];
      const bool whole = in_place_ ? mask == 15 : column + 4 <= call_.width;
      if (!whole || pixels_ == Pixels::kStrided)
        blend_bytes(row, column, colors, mask);
      else if (pixels_ == Pixels::kPacked)
        blend_packed(row, column, colors, mask);
      else
        blend_planar(row, column, colors, mask);
    });
  }

 private:
  __device__ Patches patches(int shares) const {
    if (!in_place_) return share_of(0, call_.height, 0, (call_.width + 3) / 4, shares);
    const Region& region = call_.region;
    return share_of(
        region.top, region.top + region.height, region.left / 4, (region.left + region.width + 3) / 4, shares);
  }

  template <typename AnyPlane>
  __device__ auto at(const AnyPlane& plane, int64_t row, int64_t column) const {
    return plane.data + sample_ * plane.sample + row * plane.row + column * plane.column;
  }

  __device__ void blend_bytes(int64_t row, int column, const uint32_t (&colors)[4], unsigned mask) const {
#pragma unroll 1
    for (int v = 0; v < 4 && column + v < call_.width; ++v) {
      const bool drawn = mask >> v & 1;
      if (in_place_ && !drawn) continue;
      for (int c = 0; c < 3; ++c)
        *at(call_.to[c], row, column + v) = blend(
            *at(call_.from[c], row, column + v), byte_of(colors[v], c), drawn ? call_.opacity : 0);
    }
  }

  __device__ void blend_packed(int64_t row, int column, const uint32_t (&colors)[4], unsigned mask) const {
    const auto* from = reinterpret_cast<const uint32_t*>(at(call_.from[0], row, column));
    auto* to = reinterpret_cast<uint32_t*>(at(call_.to[0], row, column));
    const uint32_t pixels[3] = {from[0], from[1], from[2]};
    uint32_t blended[3] = {};
    blend_words<Pixels::kPacked>(pixels, blended, colors, mask, call_.opacity);
    for (int k = 0; k < 3; ++k) to[k] = blended[k];
  }

  __device__ void blend_planar(int64_t row, int column, const uint32_t (&colors)[4], unsigned mask) const {
    uint32_t pixels[3], blended[3] = {};
    for (int c = 0; c < 3; ++c) pixels[c] = *reinterpret_cast<const uint32_t*>(at(call_.from[c], row, column));
    blend_words<Pixels::kPlanar>(pixels, blended, colors, mask, call_.opacity);
    for (int c = 0; c < 3; ++c) *reinterpret_cast<uint32_t*>(at(call_.to[c], row, column)) = blended[c];
  }

  const RgbOverlay& call_;
  const int64_t sample_;
  const bool in_place_;
  const Pixels pixels_;
  const Drawing drawing_;
  const Patches patches_;
};

struct Yuv420Arguments {
  Yuv420Overlay overlay;
  int shares;  // blocks of a frame
};

class Yuv420Block {
 public:
  __device__ Yuv420Block(const Yuv420Arguments& args, OverlayShared& shared)
      : call_(args.overlay),
        shares_(args.shares),
        sample_(blockIdx.x / args.shares),
        luma_words_(has_words(call_.luma, 1)),
        blue_words_(has_words(call_.blue, 1)),
        red_words_(has_words(call_.red, 1)),
        covered_rows_(covered_chroma(call_.region.top, call_.region.height, call_.height)),
        covered_columns_(covered_chroma(call_.region.left, call_.region.width, call_.width)),
        drawing_(call_, sample_, shared) {}

  __device__ void run() const {
    const Region& region = call_.region;
    const Patches patches = share_of(
        region.top / 2, (region.top + region.height + 1) / 2, region.left / 8, (region.left + region.width + 7) / 8,
        shares_);
    drawing_.each_patch<2, 8>(patches, [&](int64_t row, int column, const float(&values)[2][8]) {
      int levels[2][8];
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int v = 0; v < 8; ++v) levels[r][v] = drawing_.level(values[r][v]);
      draw_luma(row, column, levels);
      draw_chroma(row / 2, column / 2, levels);
    });
  }

 private:
  __device__ void draw_luma(int64_t row, int column, const int (&levels)[2][8]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!drawing_.has_row(row + r)) continue;
#pragma unroll
      for (int half = 0; half < 8; half += 4) {
        int colors[4];
#pragma unroll
        for (int v = 0; v < 4; ++v) colors[v] = color(levels[r][half + v], 0);
        blend_four(
            call_.luma, luma_words_, row + r, column + half, colors, drawing_.has_columns(column + half));
      }
    }
  }

  // `row` and `column` are those of the chroma planes.
  __device__ void draw_chroma(int64_t row, int column, const int (&levels)[2][8]) const {
    if (row < covered_rows_.begin || row >= covered_rows_.end) return;
    const bool last_row = 2 * row + 1 == call_.height;  // its second row does not exist: the first counts twice
    int means[4];
    unsigned mask = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const bool last_column = 2 * int64_t(column + k) + 1 == call_.width;
      const int upper_left = levels[0][2 * k], upper_right = last_column ? upper_left : levels[0][2 * k + 1];
      const int lower_left = last_row ? upper_left : levels[1][2 * k];
      const int lower_right = last_row ? upper_right : last_column ? lower_left : levels[1][2 * k + 1];
      means[k] = mean_level(upper_left, upper_right, lower_left, lower_right);
      mask |= unsigned(column + k >= covered_columns_.begin && column + k < covered_columns_.end) << k;
    }
    int blue[4], red[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      blue[k] = color(means[k], 1);
      red[k] = color(means[k], 2);
    }
    blend_four(call_.blue, blue_words_, row, column, blue, mask);
    blend_four(call_.red, red_words_, row, column, red, mask);
  }

  __device__ int color(int level, int plane) const { return byte_of(drawing_.shared.colors[level], plane); }

  // Four neighbours of a plane; bit v of `mask`: blend the v-th.
  __device__ void blend_four(
      const Plane& plane, bool words, int64_t row, int64_t column, const int (&colors)[4], unsigned mask) const {
    uint8_t* first = plane.data + sample_ * plane.sample + row * plane.row + column * plane.column;
    if (words && mask == 15) {
      const uint32_t pixels = *reinterpret_cast<const uint32_t*>(first);
      uint32_t blended = 0;
#pragma unroll
      for (int v = 0; v < 4; ++v)
        blended |= uint32_t(blend(byte_of(pixels, v), colors[v], call_.opacity)) << (8 * v);
      *reinterpret_cast<uint32_t*>(first) = blended;
      return;
    }
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (mask >> v & 1) first[v * plane.column] = blend(first[v * plane.column], colors[v], call_.opacity);
  }

  const Yuv420Overlay& call_;
  const int shares_;
  const int64_t sample_;
  const bool luma_words_, blue_words_, red_words_;
  const Span covered_rows_, covered_columns_;
  const Drawing drawing_;
};

__global__ void __launch_bounds__(kOverlayThreads, 3) rgb_overlay_kernel(const RgbArguments args) {
  RgbBlock(args, *reinterpret_cast<OverlayShared*>(shared_memory())).run();
}

__global__ void __launch_bounds__(kOverlayThreads, 2) yuv420_overlay_kernel(const Yuv420Arguments args) {
  Yuv420Block(args, *reinterpret_cast<OverlayShared*>(shared_memory())).run();
}

}  // namespace camfast
