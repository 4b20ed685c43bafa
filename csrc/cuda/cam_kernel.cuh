// Class activation maps on CUDA: one launch, one block a sample. No torch header, so that tests can compile the same
// text for the host, where a small execution model stands in for threads, barriers and shuffles.
//
// What a block does, for its sample, with W warps of 32 lanes:
//
//   pool     warp k takes channels k, k + W, ...; its lanes stride over the positions of G; a shuffle sums them
//   sum      lane i holds position tile + i; warp k adds channels k, k + W, ...; warp 0 adds the W partial sums
//   rectify  ReLU over L [h, w]; one unusable value makes the whole sample a zero map with a NaN range
//   upsample warp k takes output rows k, k + W, ...; every thread keeps the range of what it wrote
//   finish   the block agrees on the range, and every thread normalizes the pixels that it wrote itself
//
// Channels go through shared memory kChannelChunk at a time. L lives in shared memory where it fits, else in scratch.
#pragma once

#include <cstdint>

#include "../cam_math.h"

namespace camfast {

constexpr int kWarpSize = 32;
constexpr int kChannelChunk = 1024;
constexpr int64_t kSumTile = 64 * kWarpSize;  // positions that a warp pools before it adds to its total
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T, typename Acc>
struct CamArguments {
  Shape shape;
  const T* activations;  // [N, C, h, w], any strides
  Strides activation_strides;
  const T* gradients;  // the same, or null where weights are given
  Strides gradient_strides;
  const Acc* weights;  // [N, C], or null where gradients are given
  int64_t weights_sample, weights_channel;
  Acc* scratch;   // [N, h * w], or null where L fits in shared memory
  Acc* heatmaps;  // [N, H, W]
  Acc* ranges;    // [N, 2]
  bool relu, normalize;
};

// Dynamic shared memory of one block, in the order it is laid out. The host asks for bytes(), the kernel slices.
template <typename Acc>
struct SharedLayout {
  Acc* weights;  // [kChannelChunk]
  Acc* partial;  // [W, 32]: partial sums of a tile, later the range of each warp
  Acc* layer;    // [h * w], absent where scratch serves

  CAMFAST_HOST_DEVICE static int64_t bytes(int warps, int64_t layer_pixels_kept) {
    return int64_t(sizeof(Acc)) * (kChannelChunk + warps * kWarpSize + layer_pixels_kept);
  }
  CAMFAST_HOST_DEVICE static SharedLayout slice(unsigned char* memory, int warps) {
    Acc* base = reinterpret_cast<Acc*>(memory);
    return {base, base + kChannelChunk, base + kChannelChunk + warps * kWarpSize};
  }
};

template <typename Acc>
__device__ inline Acc warp_sum(Acc value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) value += __shfl_down_sync(kAllLanes, value, offset);
  return value;  // whole in lane 0
}

template <typename Acc>
__device__ inline Range<Acc> warp_range(Range<Acc> range) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const Acc low = __shfl_down_sync(kAllLanes, range.low, offset);
    const Acc high = __shfl_down_sync(kAllLanes, range.high, offset);
    range.include(Range<Acc>{low, high});
  }
  return range;  // whole in lane 0
}

template <typename T, typename Acc>
__global__ void cam_kernel(const CamArguments<T, Acc> args) {
  extern __shared__ __align__(16) unsigned char shared_memory[];

  const Shape shape = args.shape;
  const int thread = threadIdx.x;
  const int warp = thread / kWarpSize;
  const int lane = thread % kWarpSize;
  const int warps = blockDim.x / kWarpSize;
  const int64_t sample = blockIdx.x;
  const int64_t layer_pixels = shape.layer_pixels();

  const SharedLayout<Acc> shared = SharedLayout<Acc>::slice(shared_memory, warps);
  Acc* layer = args.scratch != nullptr ? args.scratch + sample * layer_pixels : shared.layer;
  const T* activations = args.activations + sample * args.activation_strides.sample;

  for (int64_t first = 0; first < shape.channels; first += kChannelChunk) {
    const int chunk = static_cast<int>(
        shape.channels - first < kChannelChunk ? shape.channels - first : int64_t(kChannelChunk));

    // pool
    if (args.gradients != nullptr) {
      const T* gradients = args.gradients + sample * args.gradient_strides.sample;
      for (int c = warp; c < chunk; c += warps) {
        const T* plane = gradients + (first + c) * args.gradient_strides.channel;
        Acc total = 0;
        for (int64_t tile = 0; tile < layer_pixels; tile += kSumTile) {
          Acc partial = 0;  // kept short: a long running sum in float32 drifts
          const int64_t end = layer_pixels - tile < kSumTile ? layer_pixels : tile + kSumTile;
          for (int64_t p = tile + lane; p < end; p += kWarpSize) {
            const int64_t y = p / shape.layer_width, x = p % shape.layer_width;
            partial += static_cast<Acc>(plane[y * args.gradient_strides.row + x * args.gradient_strides.column]);
          }
          total += partial;
        }
        total = warp_sum(total);
        if (lane == 0) shared.weights[c] = total / Acc(layer_pixels);
      }
    } else {
      for (int c = thread; c < chunk; c += blockDim.x)
        shared.weights[c] = args.weights[sample * args.weights_sample + (first + c) * args.weights_channel];
    }
    __syncthreads();

    // sum
    for (int64_t tile = 0; tile < layer_pixels; tile += kWarpSize) {
      const int64_t p = tile + lane;
      Acc total = 0;
      if (p < layer_pixels) {
        const int64_t y = p / shape.layer_width, x = p % shape.layer_width;
        const T* pixel = activations + first * args.activation_strides.channel + y * args.activation_strides.row +
                         x * args.activation_strides.column;
        for (int c = warp; c < chunk; c += warps)
          total += shared.weights[c] * static_cast<Acc>(pixel[c * args.activation_strides.channel]);
      }
      shared.partial[warp * kWarpSize + lane] = total;
      __syncthreads();
      if (warp == 0 && p < layer_pixels) {
        Acc sum = first == 0 ? Acc(0) : layer[p];
        for (int k = 0; k < warps; ++k) sum += shared.partial[k * kWarpSize + lane];
        layer[p] = sum;
      }
      __syncthreads();
    }
  }

  // rectify
  bool unusable = false;
  for (int64_t p = thread; p < layer_pixels; p += blockDim.x) {
    unusable |= !is_usable(layer[p]);
    if (args.relu) layer[p] = rectify(layer[p]);
  }
  unusable = __syncthreads_or(unusable);  // also orders the writes above before the reads below

  Acc* heatmap = args.heatmaps + sample * shape.pixels();
  Acc* range_out = args.ranges + 2 * sample;
  if (unusable) {
    for (int64_t i = thread; i < shape.pixels(); i += blockDim.x) heatmap[i] = 0;
    if (thread < 2) range_out[thread] = static_cast<Acc>(nan(""));
    return;
  }

  // upsample
  Range<Acc> range = Range<Acc>::empty();
  for (int64_t y = warp; y < shape.height; y += warps) {
    const Tap<Acc> row = source_tap<Acc>(y, shape.layer_height, shape.height);
    const Acc* lower = layer + row.lower * shape.layer_width;
    const Acc* upper = layer + row.upper * shape.layer_width;
    for (int64_t x = lane; x < shape.width; x += kWarpSize) {
      const Tap<Acc> column = source_tap<Acc>(x, shape.layer_width, shape.width);
      const Acc left = interpolate(lower[column.lower], upper[column.lower], row.fraction);
      const Acc right = interpolate(lower[column.upper], upper[column.upper], row.fraction);
      const Acc value = interpolate(left, right, column.fraction);
      heatmap[y * shape.width + x] = value;
      range.include(value);
    }
  }

  // finish
  range = warp_range(range);
  if (lane == 0) {
    shared.partial[2 * warp] = range.low;
    shared.partial[2 * warp + 1] = range.high;
  }
  __syncthreads();
  range = Range<Acc>::empty();
  for (int k = 0; k < warps; ++k)
    range.include(Range<Acc>{shared.partial[2 * k], shared.partial[2 * k + 1]});
  if (thread == 0) {
    range_out[0] = range.low;
    range_out[1] = range.high;
  }
  if (args.normalize)
    for (int64_t y = warp; y < shape.height; y += warps)
      for (int64_t x = lane; x < shape.width; x += kWarpSize)
        heatmap[y * shape.width + x] = range.normalize(heatmap[y * shape.width + x]);
}

}  // namespace camfast
