// Runs csrc/cuda/overlay_kernel.cuh on the host. Reads one case from standard input, writes the memory of the planes to
// standard output, all of it: host_kernels.py has the other end. The argument, if any, is the number of a barrier
// to leave out.

#include "execution_model.h"
#include "streams.h"

#include KERNEL

namespace {

// The memory that a plane lies in, its first element there, and its strides.
struct Place {
  std::int64_t memory, offset, sample, row, column;
};

struct Case {
  std::int64_t yuv420, in_place, samples, height, width;
  std::int64_t top, left, region_height, region_width;
  std::int64_t map_height, map_width, map_sample, map_row, map_column, map_count;
  std::int64_t opacity, has_ranges, normalize;
  std::int64_t threads, shares;
  Place planes[3];
  std::int64_t bytes[3];  // of each memory; 0 where there is none
};

camfast::Plane plane(std::vector<streams::Values<std::uint8_t>>& memory, const Case& c, int which) {
  const Place& place = c.planes[which];
  return {memory[place.memory].data() + place.offset, place.sample, place.row, place.column};
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) execution::lost = std::atoi(arguments[1]);
  const Case c = streams::read<Case>(1)[0];
  const auto maps = streams::read<float>(c.map_count);
  const auto colors = streams::read<std::uint8_t>(3 * camfast::kLevels);
  const auto ranges = streams::read<float>(c.has_ranges ? 2 * c.samples : 0);
  std::vector<streams::Values<std::uint8_t>> from;
  for (const std::int64_t bytes : c.bytes) from.push_back(streams::read<std::uint8_t>(bytes));
  auto to = from;

  camfast::OverlayArguments shared;
  shared.samples = c.samples;
  shared.height = c.height;
  shared.width = c.width;
  shared.region = {c.top, c.left, c.region_height, c.region_width};
  shared.maps = maps.data();
  shared.map_height = c.map_height;
  shared.map_width = c.map_width;
  shared.map_sample = c.map_sample;
  shared.map_row = c.map_row;
  shared.map_column = c.map_column;
  shared.colors = colors.data();
  shared.opacity = static_cast<int>(c.opacity);
  shared.ranges = c.has_ranges ? ranges.data() : nullptr;
  shared.range_sample = 2;
  shared.range_end = 1;
  shared.normalize = c.normalize;

  const int blocks = static_cast<int>(c.samples * c.shares), threads = static_cast<int>(c.threads);
  const int shares = static_cast<int>(c.shares);
  bool kept_within;
  if (c.yuv420) {
    const camfast::Yuv420Arguments args{{shared, plane(to, c, 0), plane(to, c, 1), plane(to, c, 2)}, shares};
    kept_within = execution::launch(
        blocks, 1, threads, sizeof(camfast::OverlayShared), [&] { camfast::yuv420_overlay_kernel(args); });
  } else {
    camfast::RgbArguments args{{shared, {}, {}}, shares};
    if (!c.in_place)
      for (auto& bytes : to) std::fill(bytes.begin(), bytes.end(), std::uint8_t(0));
    for (int channel = 0; channel < 3; ++channel) {
      args.overlay.to[channel] = plane(to, c, channel);
      const camfast::Plane source = plane(c.in_place ? to : from, c, channel);
      args.overlay.from[channel] = {source.data, source.sample, source.row, source.column};
    }
    kept_within = execution::launch(
        blocks, 1, threads, sizeof(camfast::OverlayShared), [&] { camfast::rgb_overlay_kernel(args); });
  }
  if (!kept_within) return 4;
  for (const auto& bytes : to) streams::write(bytes);
  return 0;
}
