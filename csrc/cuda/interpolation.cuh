// Bilinear interpolation of a small map by a block, a patch of R rows and V columns a thread at a time. The range of a
// map and its pixels are found by the same instructions, so that no pixel can lie outside the range.
//
//   threads   as in tiles.cuh, each with V columns whose taps it keeps; groups of threads share the rows
//   row taps  found once per row: blockDim.x rows at a time through shared memory
#pragma once

#include <cstdint>

#include "../cam_math.h"
#include "sums.cuh"
#include "tiles.cuh"

namespace camfast {

// Input and output size along one axis.
struct Axis {
  int64_t in, out;
};

// The patches to visit, by index.
struct Patches {
  int64_t row_begin, row_end;
  int column_begin, column_end;
};

// A source_tap that takes fewer registers.
template <typename Acc>
struct ColumnTap {
  int lower;
  Acc fraction;
};

// Blended along y, then along x. Neighbours mostly lie between the same two columns of the map: those are read once.
template <int V, typename Acc, typename Map>
__device__ inline void interpolate_row(
    const Map& map, const Axis& rows, const Axis& columns, const Tap<Acc>& row, const ColumnTap<Acc> (&taps)[V],
    Acc (&values)[V]) {
  const int below = static_cast<int>(row.lower), above = below + (below + 1 < rows.in);
  Acc left = 0, right = 0;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (v == 0 || taps[v].lower != taps[v - 1].lower) {
      const int before = taps[v].lower, after = before + (before + 1 < columns.in);
      left = interpolate<Acc>(map(below, before), map(above, before), row.fraction);
      right = interpolate<Acc>(map(below, after), map(above, after), row.fraction);
    }
    values[v] = interpolate(left, right, taps[v].fraction);
  }
}

// Calls visit(row, column, values[R][V]) for every patch, `row` and `column` being the index of its first. Index i lies
// at row_at(i) or column_at(i) of the output; what lies outside the output gets its edge. All threads of the block must
// take part. `row_taps` has one tap a thread, in shared memory.
template <int R, int V, typename Acc, typename Map, typename RowAt, typename ColumnAt, typename Visit>
__device__ inline void interpolate_patches(
    const Map& map, const Axis& rows, const Axis& columns, const Patches& patches, Tap<Acc>* row_taps,
    const RowAt& row_at, const ColumnAt& column_at, const Visit& visit) {
  const int threads = blockDim.x, thread = threadIdx.x;
  const int patches_a_turn = threads / R;
  const Tiles tiles(patches.column_end - patches.column_begin);
  for (int tile = 0; tile < tiles.columns; tile += tiles.width) {
    const int column = (patches.column_begin + tile + tiles.column) * V;
    ColumnTap<Acc> taps[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const Tap<Acc> tap = source_tap<Acc>(column_at(column + v), columns.in, columns.out);
      taps[v] = {static_cast<int>(tap.lower), tap.fraction};
    }

    for (int64_t first = patches.row_begin; first < patches.row_end; first += patches_a_turn) {
      const int count =
          static_cast<int>(patches.row_end - first < patches_a_turn ? patches.row_end - first : patches_a_turn);
      __syncthreads();  // whatever lay in this memory has been read
      if (thread < count * R) row_taps[thread] = source_tap<Acc>(row_at(first * R + thread), rows.in, rows.out);
      __syncthreads();
      if (!tiles.has(tile)) continue;
#pragma unroll 1
      for (int k = tiles.group; k < count; k += tiles.groups) {
        Acc values[R][V];
#pragma unroll
        for (int r = 0; r < R; ++r) interpolate_row<V>(map, rows, columns, row_taps[k * R + r], taps, values[r]);
        visit((first + k) * R, column, values);
      }
    }
  }
}

// The range of the whole output, in every thread; `row_taps` also serves the block's agreement.
template <typename Acc, typename Map>
__device__ inline Range<Acc> interpolated_range(
    const Map& map, const Axis& rows, const Axis& columns, Tap<Acc>* row_taps) {
  static_assert(sizeof(Tap<Acc>) >= 2 * sizeof(Acc));
  Range<Acc> range = Range<Acc>::empty();
  interpolate_patches<1, 1, Acc>(
      map, rows, columns,
      {0, corner_count(rows.in, rows.out), 0, static_cast<int>(corner_count(columns.in, columns.out))}, row_taps,
      [&](int64_t index) { return corner(index, rows.in, rows.out); },
      [&](int64_t index) { return corner(index, columns.in, columns.out); },
      [&](int64_t, int, const Acc(&value)[1][1]) { range.include(value[0][0]); });
  __syncthreads();  // the taps have been read
  return block_range(range, reinterpret_cast<Acc*>(row_taps));
}

}  // namespace camfast
