// Overlays on the CPU: a task some rows of a frame, each read once and written once. As in cam.h, no torch header, and
// `parallel(count, cost, work)` comes from outside.
#pragma once

#include "../overlay_arguments.h"
#include "columns.h"

namespace camfast {

// The maps of all samples, ready to be drawn.
class DrawnMaps {
 public:
  template <typename Parallel>
  DrawnMaps(const OverlayArguments& call, const Parallel& parallel)
      : call_(call),
        pitch_(row_pitch(call.map_width)),
        rows_(call.samples * call.map_height * pitch_),
        finishes_(call.samples),
        columns_(call.map_width, call.region.width, kernels().maps32) {
    const auto corners = ColumnTable<float>::of_corners(call.map_width, call.region.width, kernels().maps32);
    parallel(call.samples, call.map_height * pitch_, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        float* rows = rows_.data() + n * call.map_height * pitch_;
        for (int64_t y = 0; y < call.map_height; ++y)
          for (int64_t x = 0; x < pitch_; ++x)
            rows[y * pitch_ + x] = drawable(
                call.maps[n * call.map_sample + y * call.map_row + std::min(x, call.map_width - 1) * call.map_column]);
        Range<float> drawn{};
        if (call.normalize && call.region.height > 0)
          drawn = corner_range(map(n), call.region.height, corners.columns(), kernels().maps32);
        finishes_.data()[n] = call.finish(n, drawn);
      }
    });
  }

  // Levels of row y of the region; `row` is scratch of row_size().
  void levels(int64_t sample, int64_t y, float* row, uint8_t* levels) const {
    map(sample).at(y, call_.region.height, [&](const float* lower, const float* upper, float fraction) {
      kernels().overlay.levels_row(
          lower, upper, fraction, columns_.columns(), finishes_.data()[sample], row, levels);
    });
  }
  int64_t row_size() const { return 2 * pitch_; }

 private:
  RowMap<float> map(int64_t n) const {
    return {rows_.data() + n * call_.map_height * pitch_, call_.map_height, call_.map_width};
  }

  const OverlayArguments& call_;
  int64_t pitch_;
  Buffer<float> rows_;
  Buffer<Finish<float>> finishes_;
  ColumnTable<float> columns_;
};

// The colours of a channel, by level.
inline void channel_table(const uint8_t* colors, int channel, uint8_t* table) {
  for (int level = 0; level < kLevels; ++level) table[level] = colors[3 * level + channel];
}

// One row of a plane of any column stride.
inline void blend_pixels(
    const uint8_t* from, int64_t from_step, const uint8_t* levels, int64_t count, const uint8_t* table, int opacity,
    uint8_t* to, int64_t to_step) {
  if (from_step == 1 && to_step == 1) return kernels().overlay.blend_plane(from, levels, count, table, opacity, to);
  for (int64_t x = 0; x < count; ++x) to[x * to_step] = blend(from[x * from_step], table[levels[x]], opacity);
}

// Room for a row of levels.
inline Buffer<uint8_t> level_buffer(int64_t count) {
  return Buffer<uint8_t>(round_up(count, kLevelBlock) + kLevelBlock);
}

inline bool is_packed(const RgbOverlay& call) {
  for (int c = 0; c < 3; ++c)
    if (call.from[c].column != 3 || call.to[c].column != 3 || call.from[c].data != call.from[0].data + c ||
        call.to[c].data != call.to[0].data + c)
      return false;
  return true;
}

template <typename Parallel>
void compute_rgb_overlay(const RgbOverlay& call, const Parallel& parallel) {
  const Region& region = call.region;
  const DrawnMaps maps(call, parallel);
  const bool packed = is_packed(call);
  uint8_t tables[3 * kLevels];
  for (int c = 0; c < 3; ++c) channel_table(call.colors, c, tables + c * kLevels);

  const auto copy = [&](int64_t n, int64_t y, int64_t begin, int64_t end) {
    if (packed) {
      const uint8_t* from = call.from[0].data + n * call.from[0].sample + y * call.from[0].row;
      std::copy(from + 3 * begin, from + 3 * end, call.to[0].data + n * call.to[0].sample + y * call.to[0].row + 3 * begin);
      return;
    }
    for (int c = 0; c < 3; ++c) {
      const uint8_t* from = call.from[c].data + n * call.from[c].sample + y * call.from[c].row;
      uint8_t* to = call.to[c].data + n * call.to[c].sample + y * call.to[c].row;
      if (call.from[c].column == 1 && call.to[c].column == 1)
        std::copy(from + begin, from + end, to + begin);
      else
        for (int64_t x = begin; x < end; ++x) to[x * call.to[c].column] = from[x * call.from[c].column];
    }
  };
  // Rows outside the region are only visited to be copied.
  const int64_t first = call.in_place() ? region.top : 0;
  const int64_t count = call.in_place() ? region.height : call.height;
  parallel(call.samples * count, 4 * call.width, [&](int64_t begin, int64_t end) {
    const Buffer<float> row(maps.row_size());
    const Buffer<uint8_t> levels = level_buffer(region.width);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / count, y = first + unit % count;
      if (y < region.top || y >= region.top + region.height || region.width == 0) {
        copy(n, y, 0, call.width);
        continue;
      }
      if (!call.in_place()) {
        copy(n, y, 0, region.left);
        copy(n, y, region.left + region.width, call.width);
      }
      maps.levels(n, y - region.top, row.data(), levels.data());
      const uint8_t* from[3];
      uint8_t* to[3];
      for (int c = 0; c < 3; ++c) {
        from[c] = call.from[c].data + n * call.from[c].sample + y * call.from[c].row + region.left * call.from[c].column;
        to[c] = call.to[c].data + n * call.to[c].sample + y * call.to[c].row + region.left * call.to[c].column;
      }
      if (packed) {
        kernels().overlay.blend_packed(from[0], levels.data(), region.width, tables, call.opacity, to[0]);
      } else {
        for (int c = 0; c < 3; ++c)
          blend_pixels(
              from[c], call.from[c].column, levels.data(), region.width, tables + c * kLevels, call.opacity, to[c],
              call.to[c].column);
      }
    }
  });
}

// A task some pairs of luma rows with the row of chroma between them.
template <typename Parallel>
void compute_yuv420_overlay(const Yuv420Overlay& call, const Parallel& parallel) {
  const Region& region = call.region;
  const DrawnMaps maps(call, parallel);
  uint8_t tables[3 * kLevels];
  for (int c = 0; c < 3; ++c) channel_table(call.colors, c, tables + c * kLevels);

  const int64_t bottom = region.top + region.height;
  const Span rows = covered_chroma(region.top, region.height, call.height);
  const Span columns = covered_chroma(region.left, region.width, call.width);
  const int64_t first_pair = region.top / 2, pairs = (bottom + 1) / 2 - first_pair;

  parallel(call.samples * pairs, 3 * region.width, [&](int64_t begin, int64_t end) {
    const Buffer<float> row(maps.row_size());
    // One more than there are pixels: beyond an odd edge a chroma sample has nothing else to average with.
    const auto upper = level_buffer(region.width + 1), lower = level_buffer(region.width + 1);
    const auto chroma = level_buffer(region.width);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / pairs, pair = first_pair + unit % pairs;
      const auto luma_row = [&](int64_t y, uint8_t* levels) {
        if (y < region.top || y >= bottom) return;
        maps.levels(n, y - region.top, row.data(), levels);
        levels[region.width] = levels[region.width - 1];
        uint8_t* pixels = call.luma.data + n * call.luma.sample + y * call.luma.row + region.left * call.luma.column;
        blend_pixels(
            pixels, call.luma.column, levels, region.width, tables, call.opacity, pixels, call.luma.column);
      };
      luma_row(2 * pair, upper.data());
      luma_row(2 * pair + 1, lower.data());
      if (pair < rows.begin || pair >= rows.end || columns.begin == columns.end) continue;
      const int64_t shift = 2 * columns.begin - region.left, count = columns.end - columns.begin;
      const uint8_t* below = 2 * pair + 1 < bottom ? lower.data() : upper.data();
      kernels().overlay.mean_levels(upper.data() + shift, below + shift, count, chroma.data());
      for (int c = 1; c < 3; ++c) {
        const Plane& plane = c == 1 ? call.blue : call.red;
        uint8_t* samples = plane.data + n * plane.sample + pair * plane.row + columns.begin * plane.column;
        blend_pixels(
            samples, plane.column, chroma.data(), count, tables + c * kLevels, call.opacity, samples, plane.column);
      }
    }
  });
}

}  // namespace camfast
