// Values as integers of a scale, on the CPU. As in cam.h, no torch header, and `parallel(count, cost, work)` comes from
// outside.
#pragma once

#include <algorithm>

#include "kernels.h"

namespace camfast {

template <typename T, typename Parallel>
void compute_quantized(
    const T* values, int64_t count, float scale, float zero, uint8_t* integers, const Parallel& parallel) {
  constexpr int64_t part = 4096;  // elements that one thread takes at least
  parallel((count + part - 1) / part, part, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * part, last = std::min(end * part, count);
    kernels().quantize<T>()(values + first, last - first, scale, zero, integers + first);
  });
}

}  // namespace camfast
