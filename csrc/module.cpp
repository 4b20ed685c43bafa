// The Python module `camfast._C`: what was built, and by importing it, the operators of library.cpp.
// No torch header here, so that pybind11 is the only thing this file depends on.

#include <pybind11/pybind11.h>

#include "cpu/kernels.h"

namespace py = pybind11;

#ifndef CAMFAST_CUDA_VERSION
#define CAMFAST_CUDA_VERSION ""
#endif
#ifndef CAMFAST_CUDA_ARCHITECTURES
#define CAMFAST_CUDA_ARCHITECTURES ""
#endif

#if defined(__clang__)
#define CAMFAST_COMPILER __VERSION__
#else
#define CAMFAST_COMPILER "GCC " __VERSION__
#endif

namespace {

py::dict build_info() {
  py::dict info;
  info["torch"] = CAMFAST_TORCH_VERSION;
  info["compiler"] = CAMFAST_COMPILER;
  info["simd"] = camfast::kernels().name;
  info["cuda"] = CAMFAST_CUDA_VERSION;
  info["cuda_architectures"] = CAMFAST_CUDA_ARCHITECTURES;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled kernels of camfast.";
  module.def(
      "build_info",
      &build_info,
      "Facts about this build: torch and CUDA versions (empty without CUDA), architectures, compiler; and which SIMD kernels serve.");
}
