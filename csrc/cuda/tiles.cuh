// How the threads of a block share a table of rows and columns, of which the columns lie next to one another in memory.
//
// Threads go along the columns; where there are fewer columns than threads, several groups of threads share the rows,
// and where there are more, the block takes one tile of columns after the other:
//
//   threads  0 1 2 3 4 | 5 6 7 8 9 | 10 11 12 13 14 | 15 idle       5 columns, 16 threads
//   rows     0, 3, 6 ..| 1, 4, 7 ..| 2, 5, 8 ..     |               group = 0, 1, 2; groups = 3
#pragma once

#include <cstdint>

namespace camfast {

struct Tiles {
  int width, groups;   // columns of a tile, groups of threads
  int column, group;   // of this thread; those with group >= groups have no part
  int columns;

  __device__ explicit Tiles(int columns) : columns(columns) {
    const int threads = blockDim.x, thread = threadIdx.x;
    const int tiles = (columns + threads - 1) / threads;
    width = (columns + tiles - 1) / tiles;
    groups = threads / width;
    column = thread % width;
    group = thread / width;
  }
  __device__ bool has(int first) const { return group < groups && first + column < columns; }
};

}  // namespace camfast
