// Vectors of values for the instruction set that the including file has chosen. That file defines
//
//   CAMFAST_ISA            the namespace that keeps this copy apart from the others
//   CAMFAST_VECTOR_BYTES   the width of a register
//   CAMFAST_AVX2, CAMFAST_AVX512   where these instructions may be used
//
// and includes this one after the pragma that selects the instruction set and after every standard header: code that is
// compiled for one processor must not be shared with the rest of the library.
#pragma once

#include "kernels.h"

#define CAMFAST_INLINE inline __attribute__((always_inline))

namespace camfast::CAMFAST_ISA {

// kWidth values in as many registers as they take.
template <typename Acc, int kWidth = kLanes>
struct Lanes {
  static constexpr int kPart = CAMFAST_VECTOR_BYTES / sizeof(Acc);
  static constexpr int kParts = kWidth / kPart;
  typedef Acc Part __attribute__((vector_size(CAMFAST_VECTOR_BYTES)));
  Part part[kParts];

  static CAMFAST_INLINE Lanes of(Acc value) {
    Lanes result;
    for (int i = 0; i < kParts; ++i) result.part[i] = value - Part{};
    return result;
  }
  static CAMFAST_INLINE Lanes load(const Acc* from) {
    Lanes result;
    for (int i = 0; i < kParts; ++i) __builtin_memcpy(&result.part[i], from + i * kPart, sizeof(Part));
    return result;
  }
  CAMFAST_INLINE void store(Acc* to) const {
    for (int i = 0; i < kParts; ++i) __builtin_memcpy(to + i * kPart, &part[i], sizeof(Part));
  }
  // The last `count` lanes, and zeros in the others.
  CAMFAST_INLINE Lanes last(int64_t count) const {
    Lanes result;
    for (int i = 0; i < kParts; ++i) {
      Part lane;
      for (int k = 0; k < kPart; ++k) lane[k] = Acc(i * kPart + k);
      result.part[i] = lane < Acc(kWidth - count) ? Part{} : part[i];
    }
    return result;
  }

#define CAMFAST_OPERATOR(op)                                             \
  friend CAMFAST_INLINE Lanes operator op(Lanes a, const Lanes& b) {     \
    for (int i = 0; i < kParts; ++i) a.part[i] = a.part[i] op b.part[i]; \
    return a;                                                            \
  }                                                                      \
  friend CAMFAST_INLINE Lanes operator op(Lanes a, Acc b) { return a op of(b); }
  CAMFAST_OPERATOR(+)
  CAMFAST_OPERATOR(-)
  CAMFAST_OPERATOR(*)
  CAMFAST_OPERATOR(/)
#undef CAMFAST_OPERATOR

  friend CAMFAST_INLINE Lanes positive_part(Lanes v) {
    for (int i = 0; i < kParts; ++i) v.part[i] = v.part[i] < 0 ? v.part[i] * 0 : v.part[i];
    return v;
  }
  friend CAMFAST_INLINE Lanes min(Lanes a, const Lanes& b) {
    for (int i = 0; i < kParts; ++i) a.part[i] = least(a.part[i], b.part[i]);
    return a;
  }
  friend CAMFAST_INLINE Lanes max(Lanes a, const Lanes& b) {
    for (int i = 0; i < kParts; ++i) a.part[i] = greatest(a.part[i], b.part[i]);
    return a;
  }
  friend CAMFAST_INLINE Lanes clamp(const Lanes& v, const Lanes& low, const Lanes& high) {
    return min(max(v, low), high);
  }

 private:
  // The machine's own instructions compare like this, but compilers do not always see it.
  static CAMFAST_INLINE Part greatest(Part a, Part b) {
#if defined(CAMFAST_AVX512)
    if constexpr (sizeof(Acc) == 4) return Part(_mm512_max_ps(__m512(a), __m512(b)));
#endif
    return a > b ? a : b;
  }
  static CAMFAST_INLINE Part least(Part a, Part b) {
#if defined(CAMFAST_AVX512)
    if constexpr (sizeof(Acc) == 4) return Part(_mm512_min_ps(__m512(a), __m512(b)));
#endif
    return a < b ? a : b;
  }
};

// Sums the lanes: halves onto each other until one is left, so that every register width adds in the same order.
template <typename Acc, int kWidth>
CAMFAST_INLINE Acc sum_lanes(const Lanes<Acc, kWidth>& v) {
  constexpr int kPart = Lanes<Acc, kWidth>::kPart;
  typename Lanes<Acc, kWidth>::Part parts[Lanes<Acc, kWidth>::kParts];
  for (int i = 0; i < v.kParts; ++i) parts[i] = v.part[i];
  for (int count = v.kParts / 2; count > 0; count /= 2)
    for (int i = 0; i < count; ++i) parts[i] += parts[i + count];
  const auto sum = parts[0];
#if defined(CAMFAST_AVX512)
  if constexpr (sizeof(Acc) == 4) return _mm512_reduce_add_ps(__m512(sum));
  if constexpr (sizeof(Acc) == 8) return _mm512_reduce_add_pd(__m512d(sum));
#elif defined(CAMFAST_AVX2)
  if constexpr (sizeof(Acc) == 4) {
    const __m256 whole = __m256(sum);
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(whole), _mm256_extractf128_ps(whole, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return quarter[0] + quarter[1];
  }
#endif
  Acc values[kPart];
  __builtin_memcpy(values, &sum, sizeof sum);
  for (int count = kPart / 2; count > 0; count /= 2)
    for (int i = 0; i < count; ++i) values[i] += values[i + count];
  return values[0];
}

// Values of any element type as lanes of the type that sums have.
template <typename Acc, int kWidth = kLanes>
CAMFAST_INLINE Lanes<Acc, kWidth> load(const Acc* from) {
  return Lanes<Acc, kWidth>::load(from);
}

template <typename Acc, int kWidth = kLanes>
CAMFAST_INLINE Lanes<Acc, kWidth> load(const Float16* from) {
  Lanes<Acc, kWidth> result;
#if defined(CAMFAST_AVX512)
  for (int i = 0; i < result.kParts; ++i)
    result.part[i] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 16 * i)));
#elif defined(CAMFAST_AVX2)
  for (int i = 0; i < result.kParts; ++i)
    result.part[i] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * i)));
#else
  for (int i = 0; i < result.kParts; ++i)
    for (int k = 0; k < result.kPart; ++k) {
      _Float16 value;
      __builtin_memcpy(&value, from + i * result.kPart + k, sizeof value);
      result.part[i][k] = static_cast<Acc>(value);
    }
#endif
  return result;
}

template <typename Acc, int kWidth = kLanes>
CAMFAST_INLINE Lanes<Acc, kWidth> load(const BFloat16* from) {
  Lanes<Acc, kWidth> result;
  typedef uint16_t Narrow __attribute__((vector_size(CAMFAST_VECTOR_BYTES / 2)));
  typedef uint32_t Wide __attribute__((vector_size(CAMFAST_VECTOR_BYTES)));
  for (int i = 0; i < result.kParts; ++i) {
    Narrow bits;
    __builtin_memcpy(&bits, from + i * result.kPart, sizeof bits);
    const Wide wide = __builtin_convertvector(bits, Wide) << 16;  // bfloat16 is the upper half of a float
    __builtin_memcpy(&result.part[i], &wide, sizeof wide);
  }
  return result;
}

template <typename Acc>
CAMFAST_INLINE Acc value_of(Acc value) {
  return value;
}
template <typename Acc>
CAMFAST_INLINE Acc value_of(Float16 value) {
  _Float16 half;
  __builtin_memcpy(&half, &value, sizeof half);
  return static_cast<Acc>(half);
}
template <typename Acc>
CAMFAST_INLINE Acc value_of(BFloat16 value) {
  const uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
  float result;
  __builtin_memcpy(&result, &wide, sizeof result);
  return result;
}

}  // namespace camfast::CAMFAST_ISA
