// Which instruction set serves: the best that was compiled and that this processor has.

#include <strings.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "kernels.h"

namespace camfast {
namespace {

struct Candidate {
  const char* name;  // as CAMFAST_SIMD has it
  bool supported;
  const Kernels* (*kernels)();
};

const Kernels* choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi");
#else
  const bool avx2 = false, avx512 = false;
#endif
  const Candidate candidates[] = {
      {"avx512", avx512, avx512_kernels}, {"avx2", avx2, avx2_kernels}, {"baseline", true, baseline_kernels}};
  const char* limit = std::getenv("CAMFAST_SIMD");
  const auto is_limit = [&](const Candidate& candidate) {
    return limit != nullptr && strcasecmp(limit, candidate.name) == 0;
  };
  // A name that nobody knows limits nothing.
  bool allowed = std::none_of(std::begin(candidates), std::end(candidates), is_limit);
  const Kernels* chosen = nullptr;
  for (const Candidate& candidate : candidates) {
    allowed = allowed || is_limit(candidate);
    if (chosen == nullptr && allowed && candidate.supported) chosen = candidate.kernels();
  }
  return chosen;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels* const chosen = choose();
  return *chosen;
}

}  // namespace camfast
