// `quantize` for CPU tensors: from tensors to pointers, and the registration.

#include <torch/csrc/stable/library.h>

#include "../quantize_operator.h"
#include "elements.h"
#include "parallel.h"
#include "quantize.h"

namespace camfast {
namespace {

struct Cpu {
  template <typename T>
  static void quantize(const Tensor& values, float scale, float zero, const Tensor& integers) {
    const auto* from = reinterpret_cast<const Element<T>*>(values.const_data_ptr<T>());
    compute_quantized(from, values.numel(), scale, zero, integers.mutable_data_ptr<uint8_t>(), on_torch_threads);
  }
};

}  // namespace
}  // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) {
  m.impl("quantize", TORCH_BOX(&camfast::quantize<camfast::Cpu>));
}
