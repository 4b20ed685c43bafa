// The kernels of the overlays for one instruction set; see simd.h for how this file is included.
//
//   row of the map --levels--> 0 .. 255 --paint--> colours --blend--> pixels
//
// Rows of levels and colours stay in the first cache; a pixel is read once and written once.
#pragma once

#include "../overlay_math.h"
#include "map_kernels.h"

namespace camfast::CAMFAST_ISA {

void levels_row(
    const float* lower, const float* upper, float fraction, const Columns<float>& columns, const Finish<float>& finish,
    float* row, uint8_t* levels) {
  const auto to_levels = [&]<int kWidth>(const Lanes<float, kWidth>& values) __attribute__((always_inline)) {
    using V = Lanes<float, kWidth>;
    return clamp((values - finish.offset) * finish.lift * finish.scale, V::of(-kFarBeyond), V::of(kFarBeyond)) * 255.0f +
           0.5f;
  };
  const auto emit = [&](int64_t x, const Lanes<float, kGroup>& value) __attribute__((always_inline)) {
    const auto positive = max(value, Lanes<float, kGroup>::of(0));
#if defined(CAMFAST_AVX512)
    const __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_cvttps_epi32(positive.part[0]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(levels + x), bytes);
#elif defined(CAMFAST_AVX2)
    const __m256i wide = _mm256_cvttps_epi32(positive.part[0]);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(levels + x), _mm_packus_epi16(_mm_min_epu16(words, _mm_set1_epi16(255)), words));
#else
    const auto limited = min(positive, Lanes<float, kGroup>::of(255));
    for (int k = 0; k < kGroup; ++k) levels[x + k] = static_cast<uint8_t>(static_cast<int>(limited.part[0][k]));
#endif
  };
  spread(lower, upper, fraction, columns, row, to_levels, emit);
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

void paint_plane(const uint8_t* levels, int64_t count, const uint8_t* table, uint8_t* colors) {
#if defined(CAMFAST_AVX512)
  const ByteTable values(table);
  for (int64_t i = 0; i < count; i += 64)
    _mm512_storeu_si512(colors + i, values.look_up(_mm512_loadu_si512(levels + i)));
#else
  for (int64_t i = 0; i < count; ++i) colors[i] = table[levels[i]];
#endif
}

void paint_packed(const uint8_t* levels, int64_t count, const uint8_t* table, uint8_t* colors) {
#if defined(CAMFAST_AVX512)
  const ByteTable reds(table), greens(table + kLevels), blues(table + 2 * kLevels);
  for (int64_t i = 0; i < count; i += 64) {
    const __m512i level = _mm512_loadu_si512(levels + i);
    const __m512i red = reds.look_up(level), green = greens.look_up(level), blue = blues.look_up(level);
    for (int k = 0; k < 3; ++k) {
      const __m512i both =
          _mm512_permutex2var_epi8(red, _mm512_loadu_si512(kPackedOrder.red_green + 64 * k), green);
      const __m512i all = _mm512_mask_permutexvar_epi8(
          both, kPackedOrder.is_blue[k], _mm512_loadu_si512(kPackedOrder.blue + 64 * k), blue);
      _mm512_storeu_si512(colors + 3 * i + 64 * k, all);
    }
  }
#else
  for (int64_t i = 0; i < count; ++i)
    for (int k = 0; k < 3; ++k) colors[3 * i + k] = table[k * kLevels + levels[i]];
#endif
}

void blend_bytes(const uint8_t* from, const uint8_t* colors, int64_t count, int opacity, uint8_t* to) {
  int64_t i = 0;
  // 2 (color - pixel) * opacity, rounded, over 2^15: what blend() computes, within 16 bits.
#if defined(CAMFAST_AVX512)
  const __m512i zero = _mm512_setzero_si512(), weight = _mm512_set1_epi16(static_cast<short>(opacity));
  const auto blended = [&](__m512i pixel, __m512i color) __attribute__((always_inline)) {
    const __m512i difference = _mm512_sub_epi16(color, pixel);
    return _mm512_add_epi16(pixel, _mm512_mulhrs_epi16(_mm512_add_epi16(difference, difference), weight));
  };
  for (; i + 64 <= count; i += 64) {
    const __m512i pixels = _mm512_loadu_si512(from + i), painted = _mm512_loadu_si512(colors + i);
    const __m512i low = blended(_mm512_unpacklo_epi8(pixels, zero), _mm512_unpacklo_epi8(painted, zero));
    const __m512i high = blended(_mm512_unpackhi_epi8(pixels, zero), _mm512_unpackhi_epi8(painted, zero));
    _mm512_storeu_si512(to + i, _mm512_packus_epi16(low, high));
  }
#elif defined(CAMFAST_AVX2)
  const __m256i zero = _mm256_setzero_si256(), weight = _mm256_set1_epi16(static_cast<short>(opacity));
  const auto blended = [&](__m256i pixel, __m256i color) __attribute__((always_inline)) {
    const __m256i difference = _mm256_sub_epi16(color, pixel);
    return _mm256_add_epi16(pixel, _mm256_mulhrs_epi16(_mm256_add_epi16(difference, difference), weight));
  };
  for (; i + 32 <= count; i += 32) {
    const __m256i pixels = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    const __m256i painted = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(colors + i));
    const __m256i low = blended(_mm256_unpacklo_epi8(pixels, zero), _mm256_unpacklo_epi8(painted, zero));
    const __m256i high = blended(_mm256_unpackhi_epi8(pixels, zero), _mm256_unpackhi_epi8(painted, zero));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_packus_epi16(low, high));
  }
#endif
  for (; i < count; ++i) to[i] = blend(from[i], colors[i], opacity);
}

OverlayKernels overlay_kernels() {
  return {levels_row, mean_levels, paint_plane, paint_packed, blend_bytes};
}

}  // namespace camfast::CAMFAST_ISA
