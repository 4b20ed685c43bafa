// `cam` for CPU tensors: from tensors to pointers, and the registration.

#include <torch/csrc/stable/library.h>

#include "../cam_operator.h"
#include "cam.h"
#include "elements.h"
#include "parallel.h"

namespace camfast {
namespace {

struct Cpu {
  template <typename T, typename Acc>
  static void run(const Call& call, const Results& results) {
    const auto elements = [](const Tensor& tensor) {
      return reinterpret_cast<const Element<T>*>(tensor.const_data_ptr<T>());
    };
    CpuCam<Element<T>, Acc> cam;
    cam.shape = call.shape;
    cam.rule = call.rule;
    cam.relu = call.relu;
    cam.normalize = call.normalize;
    cam.activations = elements(call.activations);
    cam.activation_strides = call.activation_strides;
    cam.gradients = call.gradients ? elements(*call.gradients) : nullptr;
    cam.gradient_strides = call.gradient_strides;
    cam.weights = call.weights ? call.weights->const_data_ptr<Acc>() : nullptr;
    cam.weights_map = call.weights_map;
    cam.weights_channel = call.weights_channel;
    cam.heatmaps = results.heatmaps.mutable_data_ptr<Acc>();
    cam.ranges = results.ranges.mutable_data_ptr<Acc>();
    compute_cam(cam, on_torch_threads);
  }
};

}  // namespace
}  // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) {
  m.impl("cam", TORCH_BOX(&camfast::cam<camfast::Cpu>));
  m.impl("cam.out", TORCH_BOX(&camfast::cam_out<camfast::Cpu>));
}
