// The kernels for x86-64 with AVX-512 with byte permutes (Ice Lake, Zen 4 and later).

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

// Nothing that other files share may come after this line: it would be compiled for this processor, and then be theirs.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,f16c")

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 says so of its own intrinsics

#define CAMFAST_ISA avx512
#define CAMFAST_VECTOR_BYTES 64
#define CAMFAST_AVX512

#include "isa_table.h"

namespace camfast {

const Kernels* avx512_kernels() {
  static const Kernels table = avx512::table("AVX-512");
  return &table;
}

}  // namespace camfast

#else

namespace camfast {

struct Kernels;

const Kernels* avx512_kernels() {
  return nullptr;
}

}  // namespace camfast

#endif
