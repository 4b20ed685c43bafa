// From values to bytes, for one instruction set; see simd.h for how this file is included.
#pragma once

#include "../overlay_math.h"
#include "simd.h"

namespace camfast::CAMFAST_ISA {

using LevelBlock = Lanes<float, kLevelBlock>;

// Truncated, and cut off at 0 and 255.
CAMFAST_INLINE void store_levels(const LevelBlock& values, uint8_t* levels) {
#if defined(CAMFAST_AVX512)
  __m512i whole[4];
  for (int i = 0; i < 4; ++i) whole[i] = _mm512_cvttps_epi32(values.part[i]);
  const __m512i bytes =
      _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]), _mm512_packs_epi32(whole[2], whole[3]));
  // Packing goes quarter by quarter.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(levels, _mm512_permutexvar_epi32(order, bytes));
#elif defined(CAMFAST_AVX2)
  for (int half = 0; half < 2; ++half) {
    __m256i whole[4];
    for (int i = 0; i < 4; ++i) whole[i] = _mm256_cvttps_epi32(values.part[4 * half + i]);
    const __m256i bytes =
        _mm256_packus_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(levels + 32 * half), _mm256_permutevar8x32_epi32(bytes, order));
  }
#else
  float limited[kLevelBlock];
  clamp(values, LevelBlock::of(0), LevelBlock::of(kLevels - 1)).store(limited);
  for (int k = 0; k < kLevelBlock; ++k) levels[k] = static_cast<uint8_t>(static_cast<int>(limited[k]));
#endif
}

}  // namespace camfast::CAMFAST_ISA
