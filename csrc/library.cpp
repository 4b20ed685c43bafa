// Operator schemas, and nothing else. The folder of a kernel names the backend that implements it.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(camfast, m) {
  // activations: [N, C, h, w]; gradients: [M, C, h, w], or weights: [M, C], with M = K * N for K maps of every sample, one
  // after the other; heatmaps: [M, H, W]; ranges: [M, 2].
  m.def(
      "cam(Tensor activations, Tensor? gradients=None, Tensor? weights=None, *, str rule=\"gradcam\", "
      "SymInt[2]? size=None, bool relu=True, bool normalize=True) -> (Tensor heatmaps, Tensor ranges)");
  // Into heatmaps and ranges that the caller has.
  m.def(
      "cam.out(Tensor activations, Tensor? gradients=None, Tensor? weights=None, *, str rule=\"gradcam\", "
      "bool relu=True, bool normalize=True, Tensor(a!) heatmaps, Tensor(b!) ranges) -> ()");

  // frames: uint8 [N, H, W, 3], any strides; heatmaps: float32 [N, h, w]; colors: uint8 [256, 3]; ranges: float32 [N, 2];
  // region: (top, left, height, width).
  m.def(
      "overlay(Tensor frames, Tensor heatmaps, Tensor colors, *, float alpha, SymInt[4] region, Tensor? ranges=None, "
      "bool normalize=False) -> Tensor");
  m.def(
      "overlay_(Tensor(a!) frames, Tensor heatmaps, Tensor colors, *, float alpha, SymInt[4] region, "
      "Tensor? ranges=None, bool normalize=False) -> ()");
  // Planes of YUV 4:2:0: luma [N, H, W], blue and red chroma [N, ceil(H / 2), ceil(W / 2)]; colors are Y, U, V.
  m.def(
      "overlay_yuv420_(Tensor(a!) luma, Tensor(b!) blue, Tensor(c!) red, Tensor heatmaps, Tensor colors, *, float alpha, "
      "SymInt[4] region, Tensor? ranges=None, bool normalize=False) -> ()");

  // values: float32, float16 or bfloat16, any shape; uint8 of the same strides where elements fill their memory.
  m.def("quantize(Tensor values, *, float step, int zero) -> Tensor");
}
