// From the partial maps of a layer to finished rows of a heatmap, or of levels, for one instruction set; see simd.h for
// how this file is included.
//
//   partial maps --sum--> L --rows, ReLU--> two rows --blend--> one row --spread over the columns--> finished values
//
// A row of few inputs is held in a register and permuted; of more, the window under every group of outputs is loaded and
// permuted; where no window holds them (reduced maps, float64, the baseline) they are looked up one by one.
#pragma once

#include "simd.h"

namespace camfast::CAMFAST_ISA {

// As many outputs as a register has floats.
constexpr int kGroup = CAMFAST_VECTOR_BYTES / 4;

template <typename Acc>
void collect(Acc* partials, int64_t count, int64_t pixels) {
  const int64_t size = slots(pixels);
  for (int64_t k = 1; k < count; ++k)
    for (int64_t i = 0; i < size; i += kLanes)
      (load<Acc>(partials + i) + load<Acc>(partials + k * size + i)).store(partials + i);
  if (pixels > kLanes && pixels < size) {
    const Lanes<Acc> last = load<Acc>(partials + size - kLanes);
    last.store(partials + pixels - kLanes);
  }
}

template <typename Acc>
bool lay_rows(const Acc* layer, int64_t height, int64_t width, bool relu, Acc* rows) {
  const int64_t pitch = row_pitch(width);
  bool usable = true;
  for (int64_t i = 0; i < height * width; ++i) usable &= is_usable(layer[i]);
  for (int64_t y = 0; y < height; ++y, layer += width, rows += pitch) {
    for (int64_t x = 0; x < width; ++x) rows[x] = relu ? rectify(layer[x]) : layer[x];
    for (int64_t x = width; x < pitch; ++x) rows[x] = rows[width - 1];
  }
  return usable;
}

template <typename Acc>
Range<Acc> range(const Acc* values, int64_t count) {
  using V = Lanes<Acc>;
  Range<Acc> result = Range<Acc>::empty();
  V low = V::of(result.low), high = V::of(result.high);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const V value = load<Acc>(values + i);
    low = min(low, value);
    high = max(high, value);
  }
  for (; i < count; ++i) result.include(values[i]);
  Acc lows[kLanes], highs[kLanes];
  low.store(lows);
  high.store(highs);
  for (int k = 0; k < kLanes; ++k) result.include(Range<Acc>{lows[k], highs[k]});
  return result;
}

template <int kWidth, typename Acc>
CAMFAST_INLINE Lanes<Acc, kWidth> blend_rows(const Acc* lower, const Acc* upper, Acc fraction) {
  const auto below = load<Acc, kWidth>(lower);
  return below + (load<Acc, kWidth>(upper) - below) * fraction;
}

#if defined(CAMFAST_AVX512)
using Floats = __m512;
using Integers = __m512i;

CAMFAST_INLINE Floats permuted(Floats values, Integers index) {
  return _mm512_permutexvar_ps(index, values);
}
#elif defined(CAMFAST_AVX2)
using Floats = __m256;
using Integers = __m256i;

CAMFAST_INLINE Floats permuted(Floats values, Integers index) {
  return _mm256_permutevar8x32_ps(values, index);
}
#endif

#if defined(CAMFAST_AVX2) || defined(CAMFAST_AVX512)
template <typename Vector, typename Element>
CAMFAST_INLINE Vector loaded(const Element* from) {
  Vector result;
  __builtin_memcpy(&result, from, sizeof result);
  return result;
}

// The inputs under a group of outputs that is narrower than a register, and under one that is not.
struct NarrowWindow {
  static CAMFAST_INLINE Floats take(const float* from, Integers index) { return permuted(loaded<Floats>(from), index); }
};
#if defined(CAMFAST_AVX512)
struct WideWindow {
  static CAMFAST_INLINE Floats take(const float* from, Integers index) {
    return _mm512_permutex2var_ps(loaded<Floats>(from), index, loaded<Floats>(from + kGroup));
  }
};
#endif
#endif

// The row at `fraction` between two rows, with what prepare() makes of its values, and the steps from each to the next.
// Whole registers are loaded of both, and so beyond what is written here: those lanes are never taken.
template <typename Acc, typename Prepare>
CAMFAST_INLINE void prepare_row(
    const Acc* lower, const Acc* upper, Acc fraction, int64_t pitch, const Prepare& prepare, Acc* row, Acc* steps) {
  for (int64_t x = 0; x < pitch; x += kLanes)
    prepare(blend_rows<kLanes>(lower + x, upper + x, fraction)).store(row + x);
  for (int64_t x = 0; x < pitch - kLanes; x += kLanes)
    (load<Acc>(row + x + 1) - load<Acc>(row + x)).store(steps + x);
}

// Calls emit(x, Lanes<Acc, kGroup>) for every group of outputs of the row at `fraction` between two rows.
template <typename Acc, typename Prepare, typename Emit>
CAMFAST_INLINE void spread(
    const Acc* lower, const Acc* upper, Acc fraction, const Columns<Acc>& columns, Acc* row, const Prepare& prepare,
    const Emit& emit) {
  using V = Lanes<Acc, kGroup>;
  // Copies, which no store can change.
  const int64_t outputs = columns.outputs;
  const int32_t* const offset = columns.offset;
  const Acc* const fractions = columns.fraction;
#if defined(CAMFAST_AVX2) || defined(CAMFAST_AVX512)
  if constexpr (sizeof(Acc) == 4) {
    if (columns.inputs <= kGroup) {
      const Floats held = prepare(blend_rows<kGroup>(lower, upper, fraction)).part[0];
      Integers next;
      for (int k = 0; k < kGroup; ++k) reinterpret_cast<int*>(&next)[k] = k + 1 < kGroup ? k + 1 : k;
      const Floats steps = permuted(held, next) - held;
      for (int64_t x = 0; x < outputs; x += kGroup) {
        const Integers index = loaded<Integers>(offset + x);
        emit(x, V{permuted(held, index)} + V{permuted(steps, index)} * load<Acc, kGroup>(fractions + x));
      }
      return;
    }
  }
#endif
  const int64_t pitch = row_pitch(columns.inputs);
  Acc* const steps = row + pitch;
  prepare_row(lower, upper, fraction, pitch, prepare, row, steps);
  const int32_t* base = columns.base;
#if defined(CAMFAST_AVX2) || defined(CAMFAST_AVX512)
  if constexpr (sizeof(Acc) == 4) {
    const auto windowed = [&]<typename Window>(Window) __attribute__((always_inline)) {
      for (int64_t x = 0; x < outputs; x += kGroup, ++base) {
        const Integers index = loaded<Integers>(offset + x);
        emit(
            x, V{Window::take(row + *base, index)} +
                   V{Window::take(steps + *base, index)} * load<Acc, kGroup>(fractions + x));
      }
    };
    if (columns.reach < kGroup) return windowed(NarrowWindow{});
#if defined(CAMFAST_AVX512)
    if (columns.reach < 2 * kGroup) return windowed(WideWindow{});
#endif
  }
#endif
  for (int64_t x = 0; x < outputs; x += kGroup, ++base) {
    Acc values[kGroup];
    for (int k = 0; k < kGroup; ++k) {
      const int64_t i = *base + offset[x + k];
      values[k] = row[i] + steps[i] * fractions[x + k];
    }
    emit(x, V::load(values));
  }
}

// Finish, for a group of values. Nearly every range is one that needs no lift.
template <typename Acc, bool kLifted>
struct Finisher {
  using V = Lanes<Acc, kGroup>;
  V offset, lift, scale, low, high;

  explicit CAMFAST_INLINE Finisher(const Finish<Acc>& f)
      : offset(V::of(f.offset)), lift(V::of(f.lift)), scale(V::of(f.scale)), low(V::of(f.low)), high(V::of(f.high)) {}
  CAMFAST_INLINE V operator()(const V& value) const {
    if constexpr (kLifted) return clamp((value - offset) * lift * scale, low, high);
    return clamp((value - offset) * scale, low, high);
  }
};

// Calls use(finisher) with the one for these values.
template <typename Acc, typename Use>
CAMFAST_INLINE void with_finisher(const Finish<Acc>& finish, const Use& use) {
  if (finish.lift == 1)
    use(Finisher<Acc, false>(finish));
  else
    use(Finisher<Acc, true>(finish));
}

template <typename Acc>
CAMFAST_INLINE void stream_store(const Lanes<Acc, kGroup>& value, Acc* to) {
#if defined(CAMFAST_AVX512)
  for (int i = 0; i < value.kParts; ++i)
    _mm512_stream_si512(
        reinterpret_cast<__m512i*>(to + i * value.kPart), reinterpret_cast<__m512i>(value.part[i]));
#elif defined(CAMFAST_AVX2)
  for (int i = 0; i < value.kParts; ++i)
    _mm256_stream_si256(
        reinterpret_cast<__m256i*>(to + i * value.kPart), reinterpret_cast<__m256i>(value.part[i]));
#else
  value.store(to);
#endif
}

template <typename Acc>
void interpolate_row(
    const Acc* lower, const Acc* upper, Acc fraction, const Columns<Acc>& columns, const Finish<Acc>& finish, Acc* row,
    Acc* out, bool stream) {
  const int64_t whole = columns.outputs / kGroup * kGroup;
  Acc last[kGroup];
  const auto unchanged = [](const auto& values) __attribute__((always_inline)) { return values; };
  with_finisher(finish, [&](const auto& finisher) __attribute__((always_inline)) {
    const auto emit = [&](int64_t x, const auto& value) __attribute__((always_inline)) {
      const auto finished = finisher(value);
      if (x >= whole)
        finished.store(last);
      else if (stream)
        stream_store(finished, out + x);
      else
        finished.store(out + x);
    };
    spread(lower, upper, fraction, columns, row, unchanged, emit);
  });
  for (int64_t x = whole; x < columns.outputs; ++x) out[x] = last[x - whole];
}

template <typename Acc>
MapKernels<Acc> map_kernels() {
  return {kGroup, collect<Acc>, lay_rows<Acc>, interpolate_row<Acc>, range<Acc>};
}

}  // namespace camfast::CAMFAST_ISA
