// Operator schemas, and nothing else. The folder of a kernel names the backend that implements it.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(camfast, m) {
  m.def(
      "cam(Tensor activations, Tensor? gradients=None, Tensor? weights=None, *, str rule=\"gradcam\", "
      "SymInt[2]? size=None, bool relu=True, bool normalize=True) -> (Tensor heatmaps, Tensor ranges)");
}
