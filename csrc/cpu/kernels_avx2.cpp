// The kernels for x86-64 with AVX2 and F16C (Haswell, Zen and later).

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

// Nothing that other files share may come after this line: it would be compiled for this processor, and then be theirs.
#pragma GCC target("avx2,f16c")

#define CAMFAST_ISA avx2
#define CAMFAST_VECTOR_BYTES 32
#define CAMFAST_AVX2

#include "isa_table.h"

namespace camfast {

const Kernels* avx2_kernels() {
  static const Kernels table = avx2::table("AVX2");
  return &table;
}

}  // namespace camfast

#else

namespace camfast {

struct Kernels;

const Kernels* avx2_kernels() {
  return nullptr;
}

}  // namespace camfast

#endif
