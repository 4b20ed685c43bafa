// What `quantize` does in every backend: check the operands, allocate the result. As in cam_operator.h, these checks
// guard memory.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace camfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whether elements fill their memory, each once, in any order of the axes.
inline bool is_dense(const Tensor& t) {
  std::vector<int64_t> axes;
  for (int64_t d = 0; d < t.dim(); ++d)
    if (t.size(d) != 1) axes.push_back(d);
  std::sort(axes.begin(), axes.end(), [&](int64_t a, int64_t b) { return t.stride(a) < t.stride(b); });
  int64_t reach = 1;
  for (const int64_t d : axes) {
    if (t.stride(d) != reach) return false;
    reach *= t.size(d);
  }
  return true;
}

// Memory for bytes that lie as the elements of a dense tensor do.
inline Tensor bytes_like(const Tensor& t) {
  std::vector<int64_t> sizes, strides;
  for (int64_t d = 0; d < t.dim(); ++d) {
    sizes.push_back(t.size(d));
    strides.push_back(t.stride(d));
  }
  int32_t device_type, device_index;
  STD_TORCH_CHECK(aoti_torch_get_device_type(t.get(), &device_type) == 0, "camfast::quantize: no device");
  STD_TORCH_CHECK(aoti_torch_get_device_index(t.get(), &device_index) == 0, "camfast::quantize: no device");
  AtenTensorHandle made;
  STD_TORCH_CHECK(
      aoti_torch_empty_strided(
          t.dim(), sizes.data(), strides.data(), aoti_torch_dtype_uint8(), device_type, device_index, &made) == 0,
      "camfast::quantize: no memory for the integers");
  return Tensor(made);
}

// The operator, for a backend that has
//   template <typename T> static void quantize(const Tensor& values, float scale, float zero, const Tensor& integers)
// on dense tensors.
template <typename Backend>
Tensor quantize(const Tensor& given, double step, int64_t zero) {
  STD_TORCH_CHECK(std::isfinite(step) && step > 0, "camfast::quantize: step must be finite and more than 0");
  STD_TORCH_CHECK(zero >= 0 && zero <= 255, "camfast::quantize: zero must lie in 0 .. 255");
  const Tensor values = is_dense(given) ? given : torch::stable::clone(given);
  const Tensor integers = bytes_like(values);
  const float scale = static_cast<float>(1 / step), offset = static_cast<float>(zero);
  switch (values.scalar_type()) {
    case ScalarType::Float:
      Backend::template quantize<float>(values, scale, offset, integers);
      break;
    case ScalarType::Half:
      Backend::template quantize<torch::headeronly::Half>(values, scale, offset, integers);
      break;
    case ScalarType::BFloat16:
      Backend::template quantize<torch::headeronly::BFloat16>(values, scale, offset, integers);
      break;
    default:
      STD_TORCH_CHECK(false, "camfast::quantize: values must be float32, float16 or bfloat16");
  }
  return integers;
}

}  // namespace camfast
