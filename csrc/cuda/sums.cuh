// Sums along the rows and the columns of a matrix, in an order that does not depend on timing.
//
//   row_sum      2^k lanes of a warp share one row; a shuffle adds the lanes
//   column_sums  threads as in tiles.cuh, each with V columns; the groups are added through shared memory
//
// Both take Path::kVector = V elements at a time, and read Path::kBatch vectors before they add the first, of
// Path::kBatchBytes at most: that is what keeps the memory busy. Both call
//
//   read(row, column)             the V elements from `column` on, in whatever form
//   term(elements, v, row, column + v)   what the v-th of them adds
#pragma once

#include <cstdint>
#include <type_traits>

#include "../cam_math.h"
#include "tiles.cuh"

namespace camfast {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T, int V>
struct alignas(V * sizeof(T)) Vector {
  T values[V];
};

template <int V, typename T>
__device__ inline Vector<T, V> load(const T* from) {
  return *reinterpret_cast<const Vector<T, V>*>(from);
}

template <typename Path, typename Read>
constexpr int batch_of() {
  constexpr int fitting = Path::kBatchBytes / sizeof(std::invoke_result_t<Read, int, int>);
  return fitting < Path::kBatch ? fitting : Path::kBatch;
}

// V running sums. One in float32 drifts when it is long: these add eight values, and then eights.
template <typename Acc, int V>
class RunningSums {
 public:
  __device__ void add(const Acc (&values)[V]) {
#pragma unroll
    for (int v = 0; v < V; ++v) partial_[v] += values[v];
    if (++added_ % 8 == 0) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        total_[v] += partial_[v];
        partial_[v] = 0;
      }
    }
  }
  __device__ Acc total(int v) const { return total_[v] + partial_[v]; }

 private:
  Acc total_[V] = {}, partial_[V] = {};
  int added_ = 0;
};

// How many lanes go to a row, so that each has about one batch: a power of two.
template <typename Path>
__device__ inline int lanes_for(int columns) {
  int lanes = 1;
  while (lanes < kWarpSize && lanes * Path::kVector * Path::kBatch < columns) lanes *= 2;
  return lanes;
}

// Whole in every one of the `lanes` neighbours. All lanes of the warp must take part; a row may be empty.
template <typename Path, typename Acc, typename Read, typename Term>
__device__ inline Acc row_sum(int row, int columns, int lanes, const Read& read, const Term& term) {
  constexpr int V = Path::kVector, size = batch_of<Path, Read>();
  const int step = lanes * V;
  RunningSums<Acc, 1> sum;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) % lanes * V; first < columns; first += step * size) {
    decltype(read(0, 0)) elements[size];
#pragma unroll
    for (int k = 0; k < size; ++k)
      if (first + k * step < columns) elements[k] = read(row, first + k * step);
    Acc batch[1] = {0};
#pragma unroll
    for (int k = 0; k < size; ++k)
      if (first + k * step < columns)
#pragma unroll
        for (int v = 0; v < V; ++v) batch[0] += term(elements[k], v, row, first + k * step + v);
    sum.add(batch);
  }
  Acc total = sum.total(0);
  for (int offset = lanes / 2; offset > 0; offset /= 2) total += __shfl_xor_sync(kAllLanes, total, offset);
  return total;
}

// The sums of the V columns of this thread in the tile from vector `first` on; whole in every group. All threads of the
// block must take part. `partial` has V values a thread, in shared memory.
template <typename Path, typename Acc, typename Read, typename Term>
__device__ inline void column_sums(
    int rows, const Tiles& tiles, int first, Acc* partial, Acc (&totals)[Path::kVector], const Read& read,
    const Term& term) {
  constexpr int V = Path::kVector, size = batch_of<Path, Read>();
  const int column = (first + tiles.column) * V;
  RunningSums<Acc, V> sums;
  const int end = tiles.has(first) ? rows : 0;
#pragma unroll 1
  for (int row = tiles.group; row < end; row += tiles.groups * size) {
    decltype(read(0, 0)) elements[size];
#pragma unroll
    for (int k = 0; k < size; ++k)
      if (row + k * tiles.groups < end) elements[k] = read(row + k * tiles.groups, column);
    Acc batch[V] = {};
#pragma unroll
    for (int k = 0; k < size; ++k)
      if (row + k * tiles.groups < end)
#pragma unroll
        for (int v = 0; v < V; ++v) batch[v] += term(elements[k], v, row + k * tiles.groups, column + v);
    sums.add(batch);
  }
#pragma unroll
  for (int v = 0; v < V; ++v) totals[v] = sums.total(v);
  if (tiles.groups == 1) return;
#pragma unroll
  for (int v = 0; v < V; ++v) partial[threadIdx.x * V + v] = totals[v];
  __syncthreads();
#pragma unroll
  for (int v = 0; v < V; ++v) {
    totals[v] = 0;
    for (int group = 0; group < tiles.groups; ++group)
      totals[v] += partial[(group * tiles.width + tiles.column) * V + v];
  }
  __syncthreads();  // before anybody writes partial sums again
}

// Of the whole block, in every thread. `partial` has two values a warp, in shared memory.
template <typename Acc>
__device__ inline Range<Acc> block_range(Range<Acc> range, Acc* partial) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const Acc low = __shfl_xor_sync(kAllLanes, range.low, offset);
    const Acc high = __shfl_xor_sync(kAllLanes, range.high, offset);
    range.include(Range<Acc>{low, high});
  }
  const int warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  if (threadIdx.x % kWarpSize == 0) {
    partial[2 * warp] = range.low;
    partial[2 * warp + 1] = range.high;
  }
  __syncthreads();
  for (int k = 0; k < warps; ++k) range.include(Range<Acc>{partial[2 * k], partial[2 * k + 1]});
  return range;
}

}  // namespace camfast
