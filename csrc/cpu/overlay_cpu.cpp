// The overlays for CPU tensors: the registration.

#include <torch/csrc/stable/library.h>

#include "../overlay_operator.h"
#include "overlay.h"
#include "parallel.h"

namespace camfast {
namespace {

struct Cpu {
  static void rgb(const RgbOverlay& call, const Tensor&) { compute_rgb_overlay(call, on_torch_threads); }
  static void yuv420(const Yuv420Overlay& call, const Tensor&) { compute_yuv420_overlay(call, on_torch_threads); }
};

}  // namespace
}  // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) {
  m.impl("overlay", TORCH_BOX(&camfast::overlay<camfast::Cpu>));
  m.impl("overlay_", TORCH_BOX(&camfast::overlay_<camfast::Cpu>));
  m.impl("overlay_yuv420_", TORCH_BOX(&camfast::overlay_yuv420_<camfast::Cpu>));
}
