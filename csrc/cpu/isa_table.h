// All kernels of one instruction set in one table; see simd.h for how this file is included.
#pragma once

#include "cam_kernels.h"
#include "map_kernels.h"
#include "overlay_kernels.h"
#include "quantize_kernels.h"

namespace camfast::CAMFAST_ISA {

Kernels table(const char* name) {
  return {
      name,
      cam_kernels<float, float>(),
      cam_kernels<double, double>(),
      cam_kernels<Float16, float>(),
      cam_kernels<BFloat16, float>(),
      map_kernels<float>(),
      map_kernels<double>(),
      overlay_kernels(),
      quantize_kernels()};
}

}  // namespace camfast::CAMFAST_ISA
