// Class activation maps on CUDA: one launch. No torch header, so that tests can compile the same text for the host,
// where a small execution model stands in for threads, barriers, shuffles and clusters.
//
// A map has `shares` blocks, in clusters that share its channels; each block writes its share of the rows:
//
//   weights   the rule's weight of each of the block's channels, kChannelChunk at a time
//   sum       L [h, w] of the block's channels: weights times activations, or the rule's contributions
//   gather    each block of the cluster adds up one slice of the positions over all blocks, applies ReLU and marks what
//             is unusable; then all read all slices. Every block has the whole L now
//   range     from the corners of the upsampled map
//   pixels    each written once, finished. One unusable value makes a map zero and its range NaN
//
// Weights and sum are sums along one axis of the matrix of channels and positions. Whichever axis lies contiguous in
// memory has neighbouring threads side by side (sums.cuh):
//
//                 weights (over positions)   sum (over channels)
//   planar        rows                       columns               NCHW and most else
//   interleaved   columns                    rows                  channels-last
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../cam_math.h"
#include "../cam_rules.h"
#include "cluster.cuh"
#include "interpolation.cuh"
#include "sums.cuh"
#include "tiles.cuh"

namespace camfast {

constexpr int kCamThreads = 512;  // at most
constexpr int kChannelChunk = 1024;

// How a thread reads activations and gradients: kVector neighbours at once, kBatch times before it uses any, as far as
// registers go. On a gapless path the positions of a channel lie evenly spaced, and 32 bits hold every offset in a
// sample.
template <typename T>
struct StridedPath {
  static constexpr bool kGapless = false;
  static constexpr int kVector = 1, kBatch = 2, kBatchBytes = 4 * sizeof(T);
};
template <typename T>
struct NarrowPath {
  static constexpr bool kGapless = true;
  static constexpr int kVector = 1, kBatch = sizeof(T) == 8 ? 4 : 8, kBatchBytes = 2 * kBatch * sizeof(T);
};
template <typename T>
struct WidePath {
  static constexpr bool kGapless = true;
  static constexpr int kVector = sizeof(T) == 8 ? 2 : 4, kBatch = sizeof(T) == 8 ? 4 : 8;
  // Half as many pairs. Half precision widens as it arrives: four pairs of it no longer fit in registers.
  static constexpr int kBatchBytes = sizeof(T) == 2 ? 48 : kVector * kBatch * sizeof(T);
};

template <typename T, typename Acc>
struct CamArguments {
  Shape shape;
  const T* activations;  // [N, C, h, w], any strides
  Strides activation_strides;
  const T* gradients;  // [M, C, h, w] likewise, or null where weights are given
  Strides gradient_strides;
  const Acc* weights;  // [M, C], or null where gradients are given
  int64_t weights_map, weights_channel;
  Acc* scratch;   // [blocks, h * w], or null where L fits in shared memory
  Acc* heatmaps;  // [M, H, W]
  Acc* ranges;    // [M, 2]
  bool relu, normalize;
  int shares;  // blocks of a map: one cluster or several
};

// Dynamic shared memory of one block, in the order it is laid out. The host asks for bytes(), the kernel slices.
template <typename Acc>
struct CamShared {
  Acc* weights;         // [kChannelChunk]
  Acc* partial;         // two or four values a thread: partial sums
  Tap<Acc>* row_taps;   // one a thread, in the same memory
  Acc* layer;           // [h * w], absent where scratch serves

  static constexpr int64_t kBytesAThread = 16;

  CAMFAST_HOST_DEVICE static int64_t bytes(int threads, int64_t layer_pixels_kept) {
    return kBytesAThread * threads + int64_t(sizeof(Acc)) * (kChannelChunk + layer_pixels_kept);
  }
  __device__ static CamShared slice(unsigned char* memory, int threads) {
    static_assert(sizeof(Tap<Acc>) <= kBytesAThread);
    Acc* weights = reinterpret_cast<Acc*>(memory + kBytesAThread * threads);
    return {weights, reinterpret_cast<Acc*>(memory), reinterpret_cast<Tap<Acc>*>(memory), weights + kChannelChunk};
  }
};

// Some channels of one sample's A or one map's G.
template <typename T, typename Path>
class Channels {
 public:
  __device__ Channels(const T* tensor, const Strides& strides, int64_t sample, int64_t first, const Shape& shape)
      : data_(tensor + sample * strides.sample + first * strides.channel),
        strides_(strides),
        width_(static_cast<int>(shape.layer_width)) {}

  __device__ Vector<T, Path::kVector> at(int channel, int position) const {
    if constexpr (Path::kGapless)
      return load<Path::kVector>(
          data_ + (channel * static_cast<int>(strides_.channel) + position * static_cast<int>(strides_.column)));
    else
      return load<1>(
          data_ + channel * strides_.channel + position / width_ * strides_.row + position % width_ * strides_.column);
  }

 private:
  const T* data_;
  const Strides& strides_;
  const int width_;
};

CAMFAST_HOST_DEVICE bool is_gapless(const Strides& strides, const Shape& shape) {
  const int64_t last = (shape.channels - 1) * strides.channel + (shape.layer_pixels() - 1) * strides.column;
  return (shape.layer_height == 1 || strides.row == strides.column * shape.layer_width) && last < int64_t(1) << 31;
}

// Whether whole vectors can be loaded along the contiguous axis of a gapless tensor.
template <typename T>
CAMFAST_HOST_DEVICE bool is_wide(const T* data, const Strides& strides, const Shape& shape, bool interleaved) {
  constexpr int vector = WidePath<T>::kVector;
  const int64_t contiguous = interleaved ? strides.channel : strides.column;
  const int64_t other = interleaved ? strides.column : strides.channel;
  const int64_t length = interleaved ? shape.channels : shape.layer_pixels();
  return contiguous == 1 && length % vector == 0 && other % vector == 0 && strides.sample % vector == 0 &&
         reinterpret_cast<uintptr_t>(data) % (vector * sizeof(T)) == 0;
}

// Both activations and gradients of V neighbours.
template <typename T, int V>
struct Elements {
  Vector<T, V> activations, gradients;
};

// Writes the rule's weights of `count` channels.
template <typename Rule, typename T, typename Path, typename Acc>
__device__ inline void weigh_planar(
    const Channels<T, Path>& activations, const Channels<T, Path>& gradients, int count, int positions, Acc* weights) {
  using Pair = Elements<T, Path::kVector>;
  const int lanes = lanes_for<Path>(positions), rows = blockDim.x / lanes;
  for (int first = 0; first < count; first += rows) {
    const int c = first + threadIdx.x / lanes;
    const auto sum = [&](auto term) {
      return row_sum<Path, Acc>(
          c, c < count ? positions : 0, lanes,
          [&](int channel, int p) { return Pair{activations.at(channel, p), gradients.at(channel, p)}; },
          [&](const Pair& e, int v, int, int) {
            return term(static_cast<Acc>(e.activations.values[v]), static_cast<Acc>(e.gradients.values[v]));
          });
    };
    const Acc weight = Rule::template weight<Acc>(sum, positions);
    if (c < count && threadIdx.x % lanes == 0) weights[c] = weight;
  }
}

template <typename Rule, typename T, typename Path, typename Acc>
__device__ inline void weigh_interleaved(
    const Channels<T, Path>& activations, const Channels<T, Path>& gradients, int count, int positions, Acc* partial,
    Acc* weights) {
  using Pair = Elements<T, 1>;
  const Tiles tiles(count);
  for (int first = 0; first < count; first += tiles.width) {
    const auto sum = [&](auto term) {
      Acc totals[1];
      column_sums<Path>(
          positions, tiles, first, partial, totals,
          [&](int p, int c) { return Pair{activations.at(c, p), gradients.at(c, p)}; },
          [&](const Pair& e, int, int, int) {
            return term(static_cast<Acc>(e.activations.values[0]), static_cast<Acc>(e.gradients.values[0]));
          });
      return totals[0];
    };
    const Acc weight = Rule::template weight<Acc>(sum, positions);
    if (tiles.has(first) && tiles.group == 0) weights[first + tiles.column] = weight;
  }
}

// Adds sums over `count` channels to L; read(c, p) and term(elements, v, c) as in sums.cuh.
template <typename Path, typename Acc, typename Read, typename Term>
__device__ inline void add_planar(
    int count, int positions, Acc* partial, Acc* layer, const Read& read, const Term& term) {
  constexpr int V = Path::kVector;
  const Tiles tiles(positions / V);
  for (int first = 0; first < tiles.columns; first += tiles.width) {
    Acc totals[V];
    column_sums<Path>(
        count, tiles, first, partial, totals, read,
        [&](const auto& elements, int v, int c, int) { return term(elements, v, c); });
    if (tiles.has(first) && tiles.group == 0)
      for (int v = 0; v < V; ++v) layer[(first + tiles.column) * V + v] += totals[v];
  }
}

template <typename Path, typename Acc, typename Read, typename Term>
__device__ inline void add_interleaved(int count, int positions, Acc* layer, const Read& read, const Term& term) {
  const int lanes = lanes_for<Path>(count), rows = blockDim.x / lanes;
  for (int first = 0; first < positions; first += rows) {
    const int p = first + threadIdx.x / lanes;
    const Acc total = row_sum<Path, Acc>(
        p, p < positions ? count : 0, lanes, [&](int position, int c) { return read(c, position); },
        [&](const auto& elements, int v, int, int c) { return term(elements, v, c); });
    if (p < positions && threadIdx.x % lanes == 0) layer[p] += total;
  }
}

// What the block knows of its map.
template <typename Rule, typename T, typename Acc>
class CamBlock {
 public:
  __device__ CamBlock(const CamArguments<T, Acc>& args, unsigned char* memory)
      : args_(args),
        shape_(args.shape),
        map_(blockIdx.x / args.shares),
        sample_(blockIdx.x / static_cast<unsigned>(args.shares * args.shape.maps_per_sample)),
        share_(static_cast<int>(blockIdx.x % args.shares)),
        rank_(cluster::rank()),
        blocks_(cluster::size()),
        positions_(static_cast<int>(args.shape.layer_pixels())),
        shared_(CamShared<Acc>::slice(memory, blockDim.x)),
        layer_(args.scratch != nullptr ? args.scratch + blockIdx.x * shape_.layer_pixels() : shared_.layer) {}

  __device__ void run() {
    sum_channels();
    const bool usable = gather();
    const Range<Acc> range = usable ? interpolated_range(map(), rows(), columns(), shared_.row_taps)
                                    : Range<Acc>{static_cast<Acc>(nan("")), static_cast<Acc>(nan(""))};
    if (share_ == 0 && threadIdx.x == 0) {
      args_.ranges[2 * map_] = range.low;
      args_.ranges[2 * map_ + 1] = range.high;
    }
    constexpr int wide = 16 / sizeof(Acc);
    if (shape_.width % wide == 0 && reinterpret_cast<uintptr_t>(args_.heatmaps) % 16 == 0)
      write_pixels<wide>(usable, range);
    else
      write_pixels<1>(usable, range);
    cluster::wait();  // the others have read this block's memory
  }

 private:
  // Reads L as the interpolation asks for it.
  struct Layer {
    const Acc* data;
    int width;
    __device__ Acc operator()(int row, int column) const { return data[row * width + column]; }
  };
  __device__ Layer map() const { return {layer_, static_cast<int>(shape_.layer_width)}; }
  __device__ Axis rows() const { return {shape_.layer_height, shape_.height}; }
  __device__ Axis columns() const { return {shape_.layer_width, shape_.width}; }

  // The partial L of the block's channels.
  __device__ void sum_channels() {
    for (int p = threadIdx.x; p < positions_; p += blockDim.x) layer_[p] = 0;
    __syncthreads();
    if (interleaved())
      sum_channels<true>();
    else
      sum_channels<false>();
  }

  template <bool kInterleaved>
  __device__ void sum_channels() {
    const bool both = args_.gradients != nullptr;
    if (!is_gapless(args_.activation_strides, shape_) || (both && !is_gapless(args_.gradient_strides, shape_)))
      sum_channels<kInterleaved, StridedPath<T>>();
    else if (
        !is_wide(args_.activations, args_.activation_strides, shape_, kInterleaved) ||
        (both && !is_wide(args_.gradients, args_.gradient_strides, shape_, kInterleaved)))
      sum_channels<kInterleaved, NarrowPath<T>>();
    else
      sum_channels<kInterleaved, WidePath<T>>();
  }

  template <bool kInterleaved, typename Path>
  __device__ void sum_channels() {
    // Slices in fours, so that wide loads stay aligned.
    const int64_t slice = (shape_.channels + 4 * blocks_ - 1) / (4 * blocks_) * 4;
    const int64_t begin = rank_ * slice;
    const int64_t end = begin + slice < shape_.channels ? begin + slice : shape_.channels;
    for (int64_t first = begin; first < end; first += kChannelChunk) {
      const int count = static_cast<int>(end - first < kChannelChunk ? end - first : int64_t(kChannelChunk));
      const Channels<T, Path> activations(args_.activations, args_.activation_strides, sample_, first, shape_);
      const Channels<T, Path> gradients(args_.gradients, args_.gradient_strides, map_, first, shape_);
      if constexpr (Rule::kElementwise) {
        using Pair = Elements<T, Path::kVector>;
        add<kInterleaved, Path>(
            count, [&](int c, int p) { return Pair{activations.at(c, p), gradients.at(c, p)}; },
            [&](const Pair& e, int v, int) {
              return Rule::contribution(
                  static_cast<Acc>(e.activations.values[v]), static_cast<Acc>(e.gradients.values[v]));
            });
      } else {
        weigh<kInterleaved, Path>(first, count);
        __syncthreads();
        add<kInterleaved, Path>(
            count, [&](int c, int p) { return activations.at(c, p); },
            [&](const auto& a, int v, int c) { return shared_.weights[c] * static_cast<Acc>(a.values[v]); });
        __syncthreads();  // the weights have been used
      }
    }
  }

  template <bool kInterleaved, typename Path>
  __device__ void weigh(int64_t first, int count) {
    if constexpr (std::is_same_v<Rule, GivenWeights>) {
      const Acc* weights = args_.weights + map_ * args_.weights_map + first * args_.weights_channel;
      for (int c = threadIdx.x; c < count; c += blockDim.x) shared_.weights[c] = weights[c * args_.weights_channel];
    } else {
      // Along the positions, one channel a thread: a rule's sums are of one channel.
      using Column = std::conditional_t<Path::kGapless, NarrowPath<T>, StridedPath<T>>;
      using WeighPath = std::conditional_t<kInterleaved, Column, Path>;
      const Channels<T, WeighPath> activations(args_.activations, args_.activation_strides, sample_, first, shape_);
      const Channels<T, WeighPath> gradients(args_.gradients, args_.gradient_strides, map_, first, shape_);
      if constexpr (kInterleaved)
        weigh_interleaved<Rule>(activations, gradients, count, positions_, shared_.partial, shared_.weights);
      else
        weigh_planar<Rule>(activations, gradients, count, positions_, shared_.weights);
    }
  }

  template <bool kInterleaved, typename Path, typename Read, typename Term>
  __device__ void add(int count, const Read& read, const Term& term) {
    if constexpr (kInterleaved)
      add_interleaved<Path>(count, positions_, layer_, read, term);
    else
      add_planar<Path>(count, positions_, shared_.partial, layer_, read, term);
  }

  // The whole L in every block of the cluster; false where the map is unusable.
  __device__ bool gather() {
    const int slice = (positions_ + blocks_ - 1) / blocks_;
    const int begin = rank_ * slice, end = begin + slice < positions_ ? begin + slice : positions_;
    cluster::sync();
    for (int p = begin + threadIdx.x; p < end; p += blockDim.x) {
      Acc total = 0;
      for (int k = 0; k < blocks_; ++k) total += layer_of(k)[p];
      layer_[p] = !is_usable(total) ? static_cast<Acc>(nan("")) : args_.relu ? rectify(total) : total;
    }
    cluster::sync();
    bool unusable = false;
    for (int p = threadIdx.x; p < positions_; p += blockDim.x) {
      if (p < begin || p >= end) layer_[p] = layer_of(p / slice)[p];
      unusable |= !is_usable(layer_[p]);
    }
    cluster::arrive();
    return !__syncthreads_or(unusable);
  }

  template <int V>
  __device__ void write_pixels(bool usable, const Range<Acc>& range) const {
    Acc* heatmap = args_.heatmaps + map_ * shape_.pixels();
    const int64_t begin = shape_.height * share_ / args_.shares, end = shape_.height * (share_ + 1) / args_.shares;
    if (!usable) {
      for (int64_t i = begin * shape_.width + threadIdx.x; i < end * shape_.width; i += blockDim.x) heatmap[i] = 0;
      return;
    }
    const Finish<Acc> finish = args_.normalize ? Finish<Acc>::normalized(range) : Finish<Acc>::unchanged(range);
    interpolate_patches<1, V>(
        map(), rows(), columns(), {begin, end, 0, static_cast<int>(shape_.width / V)}, shared_.row_taps,
        [](int64_t row) { return row; }, [](int64_t column) { return column; },
        [&](int64_t row, int column, const Acc(&values)[1][V]) {
          Vector<Acc, V> pixels;
#pragma unroll
          for (int v = 0; v < V; ++v) pixels.values[v] = finish(values[0][v]);
          *reinterpret_cast<Vector<Acc, V>*>(heatmap + row * shape_.width + column) = pixels;
        });
  }

  // L of another block of the cluster.
  __device__ const Acc* layer_of(int rank) const {
    if (args_.scratch != nullptr) return layer_ + (rank - rank_) * shape_.layer_pixels();
    return cluster::map(layer_, rank);
  }

  // Whether neighbouring threads go along the channels.
  __device__ bool interleaved() const {
    return args_.activation_strides.channel < args_.activation_strides.column &&
           (args_.gradients == nullptr || args_.gradient_strides.channel < args_.gradient_strides.column);
  }

  const CamArguments<T, Acc>& args_;
  const Shape& shape_;
  const int64_t map_, sample_;
  const int share_, rank_, blocks_, positions_;
  const CamShared<Acc> shared_;
  Acc* const layer_;
};

template <typename Rule, typename T, typename Acc>
__global__ void __launch_bounds__(kCamThreads, 1) cam_kernel(const CamArguments<T, Acc> args) {
  CamBlock<Rule, T, Acc>(args, shared_memory()).run();
}

}  // namespace camfast
