// The kernels of `cam` for one instruction set; see simd.h for how this file is included.
//
//   planes          for each channel c of a block:  G_c --rule--> w_c,  then sums += w_c A_c (four channels at a time)
//   channels-last   the same sums with channels across the lanes: first all w_c, then a dot product at each position
#pragma once

#include "simd.h"

namespace camfast::CAMFAST_ISA {

// A running sum in float32 drifts (by 1e-3 over a layer of 512 x 512): it stays this short, longer ones go on in double.
constexpr int64_t kRun = 64;

// Planes larger than this are fetched ahead of their use, so that memory is never idle: A while G is pooled, and the
// next G while A is added. In bytes; smaller ones are in the cache, where fetching only costs.
constexpr int64_t kLargePlane = 4096;

// Brings the cache lines of some lanes near.
template <typename E>
CAMFAST_INLINE void fetch(const E* from) {
  __builtin_prefetch(from, 0, 2);
  if constexpr (sizeof(E) == 8) __builtin_prefetch(from + kLanes / 2, 0, 2);
}

// Sum over i < count of f(a[i], g[i]) for contiguous a and g; count >= kLanes. Fetches from `ahead` where it is given.
template <typename Acc, typename A, typename G>
struct ContiguousSum {
  const A* a;
  const G* g;
  int64_t count;
  const A* ahead = nullptr;

  template <typename F>
  CAMFAST_INLINE Acc operator()(const F& f) const {
    using V = Lanes<Acc>;
    const auto term = [&](int64_t i) __attribute__((always_inline)) { return f(load<Acc>(a + i), load<Acc>(g + i)); };
    const int64_t whole = count / kLanes * kLanes;
    double total = 0;
    for (int64_t begin = 0; begin < count; begin += 4 * kRun * kLanes) {
      const int64_t rest = whole - begin;
      const int64_t end = begin + (rest < 4 * kRun * kLanes ? rest : 4 * kRun * kLanes);
      V s0 = V::of(0), s1 = s0, s2 = s0, s3 = s0;
      int64_t i = begin;
      for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
        if (ahead != nullptr)
          for (int k = 0; k < 4; ++k) fetch(ahead + i + k * kLanes);
        s0 = s0 + term(i);
        s1 = s1 + term(i + kLanes);
        s2 = s2 + term(i + 2 * kLanes);
        s3 = s3 + term(i + 3 * kLanes);
      }
      for (; i < end; i += kLanes) s0 = s0 + term(i);
      if (end == whole && count > whole && count - begin <= 4 * kRun * kLanes)
        s1 = s1 + term(count - kLanes).last(count - whole);
      total += sum_lanes((s0 + s1) + (s2 + s3));
    }
    return static_cast<Acc>(total);
  }
};

// Planes [channels, pixels] that are contiguous each, of at least kLanes pixels.
template <typename E>
struct PlaneSpan {
  const E* data;
  int64_t stride;

  CAMFAST_INLINE const E* at(int64_t channel) const { return data + channel * stride; }
};

// sums += w_c A_c over kGroup channels from `first` on, or of the contributions of an elementwise rule.
template <typename Rule, int kGroup, typename E, typename Acc>
CAMFAST_INLINE void add_planes(
    const ChannelBlock<E, Acc>& block, PlaneSpan<E> activations, PlaneSpan<E> gradients, int64_t first, int64_t plane,
    int64_t pixels) {
  using V = Lanes<Acc>;
  const bool large = pixels * int64_t(sizeof(E)) > kLargePlane;
  const E *a[kGroup], *g[kGroup];
  Acc w[kGroup];
  for (int k = 0; k < kGroup; ++k) {
    a[k] = activations.at(plane + k);
    if constexpr (std::is_same_v<Rule, GivenWeights>) {
      w[k] = block.weights[(first + k) * block.weights_stride];
    } else {
      g[k] = gradients.at(plane + k);
      if constexpr (!Rule::kElementwise)
        w[k] = Rule::template weight<Acc>(
            ContiguousSum<Acc, E, E>{a[k], g[k], pixels, large ? a[k] : nullptr}, block.height * block.width);
    }
  }
  const auto add = [&](int64_t from, int64_t slot) __attribute__((always_inline)) {
    if constexpr (!std::is_same_v<Rule, GivenWeights>)
      if (large)
        for (int k = 0; k < kGroup; ++k) fetch(g[k] + kGroup * gradients.stride + from);
    V terms[kGroup];
    for (int k = 0; k < kGroup; ++k) {
      if constexpr (Rule::kElementwise)
        terms[k] = Rule::contribution(load<Acc>(a[k] + from), load<Acc>(g[k] + from));
      else
        terms[k] = load<Acc>(a[k] + from) * w[k];
    }
    V sum = terms[0];
    if constexpr (kGroup == 4) sum = (terms[0] + terms[1]) + (terms[2] + terms[3]);
    (load<Acc>(block.sums + slot) + sum).store(block.sums + slot);
  };
  int64_t i = 0;
  for (; i + kLanes <= pixels; i += kLanes) add(i, i);
  if (i < pixels) add(pixels - kLanes, i);
}

// `count` planes of any strides as contiguous ones, in `room` where they are not.
template <typename T, typename Acc>
PlaneSpan<Acc> packed_planes(
    const T* from, const Strides& strides, int64_t count, int64_t height, int64_t width, Acc* room) {
  if constexpr (std::is_same_v<T, Acc>)
    if (planes_are_contiguous(strides, height, width)) return {from, strides.channel};
  const int64_t stride = slots(height * width);
  if (strides.channel == 1 && count == kChannelGroup) {  // channels-last: what lies together is read together
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x)
        for (int64_t k = 0; k < kChannelGroup; ++k)
          room[k * stride + y * width + x] = value_of<Acc>(from[y * strides.row + x * strides.column + k]);
  } else {
    for (int64_t k = 0; k < count; ++k)
      for (int64_t y = 0; y < height; ++y) {
        const T* row = from + k * strides.channel + y * strides.row;
        for (int64_t x = 0; x < width; ++x) room[k * stride + y * width + x] = value_of<Acc>(row[x * strides.column]);
      }
  }
  for (int64_t k = 0; k < count; ++k)
    for (int64_t i = height * width; i < kLanes; ++i) room[k * stride + i] = 0;  // of which every rule makes zero
  return {room, stride};
}

template <typename Rule, typename E, typename Acc>
CAMFAST_INLINE void add_channels(
    const ChannelBlock<E, Acc>& block, PlaneSpan<E> activations, PlaneSpan<E> gradients, int64_t first, int64_t count,
    int64_t pixels) {
  int64_t c = 0;
  for (; c + kChannelGroup <= count; c += kChannelGroup)
    add_planes<Rule, kChannelGroup>(block, activations, gradients, first + c, c, pixels);
  for (; c < count; ++c) add_planes<Rule, 1>(block, activations, gradients, first + c, c, pixels);
}

template <typename Rule, typename T, typename Acc>
void accumulate(const ChannelBlock<T, Acc>& block) {
  constexpr bool kNeedsGradients = !std::is_same_v<Rule, GivenWeights>;
  const int64_t pixels = block.height * block.width;
  for (int64_t i = 0; i < slots(pixels); ++i) block.sums[i] = 0;
  if (block.packed == nullptr) {
    add_channels<Rule>(
        block, PlaneSpan<T>{block.activations, block.activation_strides.channel},
        PlaneSpan<T>{block.gradients, block.gradient_strides.channel}, 0, block.channels, pixels);
    return;
  }
  const ChannelBlock<Acc, Acc> packed{
      nullptr, nullptr, {}, {}, block.weights, block.weights_stride, block.channels, block.height, block.width, nullptr,
      block.sums};
  for (int64_t first = 0; first < block.channels; first += kChannelGroup) {
    const int64_t count = block.channels - first < kChannelGroup ? block.channels - first : kChannelGroup;
    const PlaneSpan<Acc> activations = packed_planes(
        block.activations + first * block.activation_strides.channel, block.activation_strides, count, block.height,
        block.width, block.packed);
    PlaneSpan<Acc> gradients{};
    if constexpr (kNeedsGradients)
      gradients = packed_planes(
          block.gradients + first * block.gradient_strides.channel, block.gradient_strides, count, block.height,
          block.width, block.packed + kChannelGroup * slots(pixels));
    add_channels<Rule>(packed, activations, gradients, first, count, pixels < kLanes ? kLanes : pixels);
  }
}

// Sum over positions of f(a, g) for kWidth channels side by side.
template <typename Acc, typename T, int kWidth>
struct ChannelSums {
  const PositionBlock<T, Acc>& block;
  int64_t channel;

  template <typename F>
  CAMFAST_INLINE Lanes<Acc, kWidth> operator()(const F& f) const {
    using V = Lanes<Acc, kWidth>;
    double totals[kWidth] = {};
    V run = V::of(0);
    int64_t length = 0;
    const auto add_run = [&] {
      Acc values[kWidth];
      run.store(values);
      for (int k = 0; k < kWidth; ++k) totals[k] += values[k];
      run = V::of(0);
      length = 0;
    };
    for (int64_t y = 0; y < block.height; ++y) {
      const T* a = block.activations + channel + y * block.activation_strides.row;
      const T* g = block.gradients + channel + y * block.gradient_strides.row;
      for (int64_t x = 0; x < block.width; ++x) {
        run = run + f(load<Acc, kWidth>(a + x * block.activation_strides.column),
                      load<Acc, kWidth>(g + x * block.gradient_strides.column));
        if (++length == kRun) add_run();
      }
    }
    add_run();
    Acc sums[kWidth];
    for (int k = 0; k < kWidth; ++k) sums[k] = static_cast<Acc>(totals[k]);
    return V::load(sums);
  }
};

template <typename Rule, int kWidth, typename T, typename Acc>
CAMFAST_INLINE Lanes<Acc, kWidth> weigh_channels(const PositionBlock<T, Acc>& block, int64_t channel) {
  return Rule::template weight<Acc>(ChannelSums<Acc, T, kWidth>{block, channel}, block.height * block.width);
}

// Channels that are weighed side by side, as many as registers hold: memory delivers long stretches best.
constexpr int kWide = CAMFAST_VECTOR_BYTES == 64 ? 16 * kLanes : 8 * kLanes;

// weights[c] for begin <= c < end, end >= kLanes; to fill the last lanes some channels may be weighed twice.
template <typename Rule, typename T, typename Acc>
void weigh(const PositionBlock<T, Acc>& block, int64_t begin, int64_t end, Acc* weights) {
  if constexpr (!Rule::kElementwise && !std::is_same_v<Rule, GivenWeights>) {
    int64_t c = begin;
    for (; c + kWide <= end; c += kWide) weigh_channels<Rule, kWide>(block, c).store(weights + c);
    for (; c + kLanes <= end; c += kLanes) weigh_channels<Rule, kLanes>(block, c).store(weights + c);
    if (c < end) {
      Acc last[kLanes];
      weigh_channels<Rule, kLanes>(block, end - kLanes).store(last);
      for (; c < end; ++c) weights[c] = last[c - (end - kLanes)];
    }
  }
}

template <typename Rule, typename T, typename Acc>
void sum_channels(const PositionBlock<T, Acc>& block, const Acc* weights, int64_t begin, int64_t end, Acc* layer) {
  for (int64_t p = begin; p < end; ++p) {
    const int64_t y = p / block.width, x = p % block.width;
    const T* a = block.activations + y * block.activation_strides.row + x * block.activation_strides.column;
    if constexpr (Rule::kElementwise) {
      const T* g = block.gradients + y * block.gradient_strides.row + x * block.gradient_strides.column;
      layer[p] = ContiguousSum<Acc, T, T>{a, g, block.channels}(
          [](const auto& u, const auto& v) __attribute__((always_inline)) { return Rule::contribution(u, v); });
    } else {
      layer[p] = ContiguousSum<Acc, T, Acc>{a, weights, block.channels}(
          [](const auto& u, const auto& v) __attribute__((always_inline)) { return u * v; });
    }
  }
}

template <typename T, typename Acc>
CamKernels<T, Acc> cam_kernels() {
  CamKernels<T, Acc> kernels;
  for (int id = 0; id < kRuleCount; ++id)
    with_rule(RuleId(id), [&]<typename Rule>(Rule) {
      kernels.accumulate[id] = accumulate<Rule, T, Acc>;
      kernels.weigh[id] = weigh<Rule, T, Acc>;
      kernels.sum_channels[id] = sum_channels<Rule, T, Acc>;
    });
  return kernels;
}

}  // namespace camfast::CAMFAST_ISA
