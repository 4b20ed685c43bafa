// Owned memory of the CPU operators: aligned buffers, and tables of how the columns of a row are interpolated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"

namespace camfast {

// Uninitialized room for numbers, aligned to cache lines.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(checked(count) * sizeof(T), kAlignment))) {}
  T* data() const { return data_.get(); }

 private:
  static std::size_t checked(int64_t count) {
    if (count < 0 || count > PTRDIFF_MAX / int64_t(sizeof(T))) throw std::bad_alloc();
    return static_cast<std::size_t>(count);
  }

  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<T, Free> data_;
};

// Columns for `outputs` positions of an axis of `in` inputs that is stretched to `out`; position(k) rises with k.
template <typename Acc>
class ColumnTable {
 public:
  template <typename Position>
  ColumnTable(int64_t in, int64_t out, int64_t outputs, const MapKernels<Acc>& kernels, const Position& position)
      : base_(round_up(outputs, kernels.group) / kernels.group),
        offset_(round_up(outputs, kLevelBlock) + kLevelBlock),
        fraction_(offset_.size()),
        begin_(in + 1),
        columns_{outputs, in, base_.data(), offset_.data(), fraction_.data(), begin_.data(), 0} {
    int64_t reached = 0;  // inputs whose begin is known
    for (int64_t x = 0; x < outputs; ++x) {
      const Tap<Acc> tap = source_tap<Acc>(position(x), in, out);
      int32_t& base = base_[x / kernels.group];
      // A row that fits into a register is permuted whole.
      if (x % kernels.group == 0) base = in <= kernels.group ? 0 : static_cast<int32_t>(tap.lower);
      offset_[x] = static_cast<int32_t>(tap.lower) - base;
      fraction_[x] = tap.fraction;
      columns_.reach = std::max<int64_t>(columns_.reach, offset_[x]);
      while (reached <= tap.lower) begin_[reached++] = static_cast<int32_t>(x);
    }
    while (reached <= in) begin_[reached++] = static_cast<int32_t>(outputs);
  }

  // All positions of the axis.
  ColumnTable(int64_t in, int64_t out, const MapKernels<Acc>& kernels)
      : ColumnTable(in, out, out, kernels, [](int64_t x) { return x; }) {}

  // Its corners only.
  static ColumnTable of_corners(int64_t in, int64_t out, const MapKernels<Acc>& kernels) {
    return {in, out, corner_count(in, out), kernels, [=](int64_t k) { return corner(k, in, out); }};
  }

  ColumnTable(const ColumnTable&) = delete;
  const Columns<Acc>& columns() const { return columns_; }

 private:
  std::vector<int32_t> base_, offset_;
  std::vector<Acc> fraction_;
  std::vector<int32_t> begin_;
  Columns<Acc> columns_;
};

// A map as rows of its layer, and how its values are finished.
template <typename Acc>
struct RowMap {
  const Acc* rows;  // [h, row_pitch(w)]
  int64_t height, width;

  // Calls use(lower, upper, fraction) for output row y of `out`.
  template <typename Use>
  void at(int64_t y, int64_t out, const Use& use) const {
    const Tap<Acc> tap = source_tap<Acc>(y, height, out);
    const Acc* lower = rows + tap.lower * row_pitch(width);
    use(lower, tap.fraction == 0 ? lower : lower + row_pitch(width), tap.fraction);
  }
};

// The range of a map as interpolated to `out` rows and to the columns of `corners`.
template <typename Acc>
Range<Acc> corner_range(
    const RowMap<Acc>& map, int64_t out, const Columns<Acc>& corners, const MapKernels<Acc>& kernels) {
  const Finish<Acc> as_it_is = Finish<Acc>::unchanged({-largest_usable<Acc>(), largest_usable<Acc>()});
  const Buffer<Acc> row(2 * row_pitch(map.width)), values(corners.outputs);
  Range<Acc> range = Range<Acc>::empty();
  for (int64_t k = 0; k < corner_count(map.height, out); ++k)
    map.at(corner(k, map.height, out), out, [&](const Acc* lower, const Acc* upper, Acc fraction) {
      kernels.interpolate_row(lower, upper, fraction, corners, as_it_is, row.data(), values.data(), false);
      range.include(kernels.range(values.data(), corners.outputs));
    });
  return range;
}

}  // namespace camfast
