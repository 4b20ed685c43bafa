// One call of an overlay, as kernels take it. No torch header.
#pragma once

#include <cstdint>

#include "overlay_math.h"

namespace camfast {

// A [N, H, W] plane of bytes.
struct Plane {
  uint8_t* data;
  int64_t sample, row, column;  // strides
};
struct ConstPlane {
  const uint8_t* data;
  int64_t sample, row, column;
};

struct OverlayArguments {
  int64_t samples = 0, height = 0, width = 0;  // of the frames
  Region region{};                             // where the map lies
  const float* maps = nullptr;                 // [N, h, w], any strides
  int64_t map_height = 0, map_width = 0;
  int64_t map_sample = 0, map_row = 0, map_column = 0;
  const uint8_t* colors = nullptr;  // [256, 3]
  int opacity = 0;                  // 0 .. kOpaque
  const float* ranges = nullptr;    // [N, 2], or null: the map is in [0, 1] already, unless `normalize`
  int64_t range_sample = 0, range_end = 0;
  bool normalize = false;  // by the range of the map as it is drawn

  // For a backend that has found the range of a sample as drawn, needed only with `normalize`.
  CAMFAST_HOST_DEVICE Finish<float> finish(int64_t sample, const Range<float>& drawn) const {
    if (ranges != nullptr)
      return Finish<float>::normalized({ranges[sample * range_sample], ranges[sample * range_sample + range_end]});
    return normalize ? Finish<float>::normalized(drawn) : Finish<float>{0.0f, 1.0f, 1.0f, 0.0f, 1.0f};
  }
};

// Red, green and blue; `from` and `to` may be the same memory, and then only the region is written.
struct RgbOverlay : OverlayArguments {
  ConstPlane from[3];
  Plane to[3];

  CAMFAST_HOST_DEVICE bool in_place() const { return from[0].data == to[0].data; }
};

// In place; every chroma sample whose pixels all lie in the region.
struct Yuv420Overlay : OverlayArguments {
  Plane luma, blue, red;
};

}  // namespace camfast
