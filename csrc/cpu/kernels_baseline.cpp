// The kernels for any processor: SSE2 on x86-64, NEON on ARM.

#include <cstdint>
#include <type_traits>

#define CAMFAST_ISA baseline
#define CAMFAST_VECTOR_BYTES 16

#include "isa_table.h"

namespace camfast {

const Kernels* baseline_kernels() {
#if defined(__x86_64__)
  static const Kernels table = baseline::table("SSE2");
#elif defined(__ARM_NEON)
  static const Kernels table = baseline::table("NEON");
#else
  static const Kernels table = baseline::table("no SIMD");
#endif
  return &table;
}

}  // namespace camfast
