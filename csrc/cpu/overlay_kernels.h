// The kernels of the overlays for one instruction set; see simd.h for how this file is included.
//
//   row of the map --levels--> 0 .. 255 --colours, blend--> pixels
//
// A row of levels stays in the first cache; a pixel is read once and written once.
#pragma once

#include "levels.h"
#include "map_kernels.h"

namespace camfast::CAMFAST_ISA {

void levels_row(
    const float* lower, const float* upper, float fraction, const Columns<float>& columns, const Finish<float>& finish,
    float* row, uint8_t* levels) {
  const auto to_levels = [&]<int kWidth>(const Lanes<float, kWidth>& values) __attribute__((always_inline)) {
    using V = Lanes<float, kWidth>;
    return clamp((values - finish.offset) * finish.lift * finish.scale, V::of(-kFarBeyond), V::of(kFarBeyond)) *
               float(kLevels - 1) +
           0.5f;
  };
  // Between two inputs far apart there is nothing to look up. What a block writes too far, the next one writes again.
  if (columns.outputs >= kLevelBlock / 2 * columns.inputs) {
    float* const steps = row + row_pitch(columns.inputs);
    prepare_row(lower, upper, fraction, row_pitch(columns.inputs), to_levels, row, steps);
    for (int64_t k = 0; k < columns.inputs; ++k) {
      const auto value = LevelBlock::of(row[k]), step = LevelBlock::of(steps[k]);
      for (int64_t x = columns.begin[k]; x < columns.begin[k + 1]; x += kLevelBlock)
        store_levels(value + step * load<float, kLevelBlock>(columns.fraction + x), levels + x);
    }
    return;
  }
  float values[kLevelBlock];
  spread(
      lower, upper, fraction, columns, row, to_levels,
      [&](int64_t x, const Lanes<float, kGroup>& value) __attribute__((always_inline)) {
        value.store(values + x % kLevelBlock);
        if ((x + kGroup) % kLevelBlock == 0 || x + kGroup >= columns.outputs)
          store_levels(LevelBlock::load(values), levels + x / kLevelBlock * kLevelBlock);
      });
}

void mean_levels(const uint8_t* upper, const uint8_t* lower, int64_t count, uint8_t* levels) {
#if defined(CAMFAST_AVX512)
  const __m512i ones = _mm512_set1_epi8(1), two = _mm512_set1_epi16(2);
  for (int64_t i = 0; i < count; i += 32) {
    const __m512i above = _mm512_maddubs_epi16(_mm512_loadu_si512(upper + 2 * i), ones);
    const __m512i below = _mm512_maddubs_epi16(_mm512_loadu_si512(lower + 2 * i), ones);
    const __m512i sum = _mm512_add_epi16(_mm512_add_epi16(above, below), two);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(levels + i), _mm512_cvtepi16_epi8(_mm512_srli_epi16(sum, 2)));
  }
#else
  for (int64_t i = 0; i < count; ++i)
    levels[i] = static_cast<uint8_t>(mean_level(upper[2 * i], upper[2 * i + 1], lower[2 * i], lower[2 * i + 1]));
#endif
}

#if defined(CAMFAST_AVX512)
// 256 bytes, 64 looked up at a time.
struct ByteTable {
  __m512i quarter[4];

  explicit CAMFAST_INLINE ByteTable(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) quarter[i] = _mm512_loadu_si512(table + 64 * i);
  }
  CAMFAST_INLINE __m512i look_up(__m512i index) const {
    const __m512i low = _mm512_permutex2var_epi8(quarter[0], index, quarter[1]);
    const __m512i high = _mm512_permutex2var_epi8(quarter[2], index, quarter[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
  }
};

// Which of 64 pixels, and which of its three channels, a byte of three registers of packed pixels is.
struct PackedOrder {
  uint8_t red_green[192], blue[192];
  uint64_t is_blue[3];
};
constexpr PackedOrder packed_order() {
  PackedOrder order{};
  for (int byte = 0; byte < 192; ++byte) {
    const int pixel = byte / 3, channel = byte % 3;
    order.red_green[byte] = static_cast<uint8_t>(channel == 1 ? 64 + pixel : pixel);
    order.blue[byte] = static_cast<uint8_t>(pixel);
    if (channel == 2) order.is_blue[byte / 64] |= uint64_t(1) << (byte % 64);
  }
  return order;
}
constexpr PackedOrder kPackedOrder = packed_order();
#endif

#if defined(CAMFAST_AVX512)
// pixel + ((pixel - color) * (-2 opacity) + 2^14) / 2^15: what blend() computes, within 16 bits and in one instruction.
struct Blender {
  const __m512i weight, low_bytes = _mm512_set1_epi16(0xff);

  explicit CAMFAST_INLINE Blender(int opacity) : weight(_mm512_set1_epi16(static_cast<short>(-2 * opacity))) {}
  CAMFAST_INLINE __m512i blend_words(__m512i pixel, __m512i color) const {
    return _mm512_add_epi16(pixel, _mm512_mulhrs_epi16(_mm512_sub_epi16(pixel, color), weight));
  }
  CAMFAST_INLINE __m512i operator()(__m512i pixels, __m512i colors) const {
    const __m512i even = blend_words(_mm512_and_si512(pixels, low_bytes), _mm512_and_si512(colors, low_bytes));
    const __m512i odd = blend_words(_mm512_srli_epi16(pixels, 8), _mm512_srli_epi16(colors, 8));
    return _mm512_or_si512(even, _mm512_slli_epi16(odd, 8));
  }
};
#elif defined(CAMFAST_AVX2)
// As above.
struct Blender {
  const __m256i weight, low_bytes = _mm256_set1_epi16(0xff);

  explicit CAMFAST_INLINE Blender(int opacity) : weight(_mm256_set1_epi16(static_cast<short>(-2 * opacity))) {}
  CAMFAST_INLINE __m256i blend_words(__m256i pixel, __m256i color) const {
    return _mm256_add_epi16(pixel, _mm256_mulhrs_epi16(_mm256_sub_epi16(pixel, color), weight));
  }
  CAMFAST_INLINE __m256i operator()(__m256i pixels, __m256i colors) const {
    const __m256i even = blend_words(_mm256_and_si256(pixels, low_bytes), _mm256_and_si256(colors, low_bytes));
    const __m256i odd = blend_words(_mm256_srli_epi16(pixels, 8), _mm256_srli_epi16(colors, 8));
    return _mm256_or_si256(even, _mm256_slli_epi16(odd, 8));
  }
};
#endif

// `count` pixels of `kChannels` bytes, where no block of them is whole or none is worth making.
template <int kChannels>
CAMFAST_INLINE void blend_one_by_one(
    const uint8_t* from, const uint8_t* levels, int64_t count, const uint8_t* table, int opacity, uint8_t* to) {
  for (int64_t x = 0; x < count; ++x)
    for (int c = 0; c < kChannels; ++c)
      to[kChannels * x + c] = blend(from[kChannels * x + c], table[c * kLevels + levels[x]], opacity);
}

void blend_plane(
    const uint8_t* from, const uint8_t* levels, int64_t count, const uint8_t* table, int opacity, uint8_t* to) {
  int64_t x = 0;
#if defined(CAMFAST_AVX512)
  const ByteTable colors(table);
  const Blender blender(opacity);
  for (; x + 64 <= count; x += 64) {
    const __m512i color = colors.look_up(_mm512_loadu_si512(levels + x));
    _mm512_storeu_si512(to + x, blender(_mm512_loadu_si512(from + x), color));
  }
#elif defined(CAMFAST_AVX2)
  const Blender blender(opacity);
  for (; x + 32 <= count; x += 32) {
    alignas(32) uint8_t colors[32];
    for (int k = 0; k < 32; ++k) colors[k] = table[levels[x + k]];
    const __m256i pixels = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + x));
    const __m256i blended = blender(pixels, _mm256_load_si256(reinterpret_cast<const __m256i*>(colors)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + x), blended);
  }
#endif
  blend_one_by_one<1>(from + x, levels + x, count - x, table, opacity, to + x);
}

void blend_packed(
    const uint8_t* from, const uint8_t* levels, int64_t count, const uint8_t* table, int opacity, uint8_t* to) {
  int64_t x = 0;
#if defined(CAMFAST_AVX512)
  const ByteTable reds(table), greens(table + kLevels), blues(table + 2 * kLevels);
  const Blender blender(opacity);
  for (; x + 64 <= count; x += 64) {
    const __m512i level = _mm512_loadu_si512(levels + x);
    const __m512i red = reds.look_up(level), green = greens.look_up(level), blue = blues.look_up(level);
    for (int k = 0; k < 3; ++k) {
      const __m512i red_green =
          _mm512_permutex2var_epi8(red, _mm512_loadu_si512(kPackedOrder.red_green + 64 * k), green);
      const __m512i color = _mm512_mask_permutexvar_epi8(
          red_green, kPackedOrder.is_blue[k], _mm512_loadu_si512(kPackedOrder.blue + 64 * k), blue);
      const int64_t byte = 3 * x + 64 * k;
      _mm512_storeu_si512(to + byte, blender(_mm512_loadu_si512(from + byte), color));
    }
  }
#elif defined(CAMFAST_AVX2)
  const Blender blender(opacity);
  for (; x + 32 <= count; x += 32) {
    alignas(32) uint8_t colors[96];
    for (int k = 0; k < 32; ++k)
      for (int c = 0; c < 3; ++c) colors[3 * k + c] = table[c * kLevels + levels[x + k]];
    for (int k = 0; k < 96; k += 32) {
      const __m256i pixels = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 3 * x + k));
      const __m256i blended = blender(pixels, _mm256_load_si256(reinterpret_cast<const __m256i*>(colors + k)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 3 * x + k), blended);
    }
  }
#endif
  blend_one_by_one<3>(from + 3 * x, levels + x, count - x, table, opacity, to + 3 * x);
}

OverlayKernels overlay_kernels() {
  return {levels_row, mean_levels, blend_plane, blend_packed};
}

}  // namespace camfast::CAMFAST_ISA
