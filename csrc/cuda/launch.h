// What every launch needs around it: the tensor's device, the caller's stream, and a check afterwards.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

namespace camfast {

class Launch {
 public:
  explicit Launch(const torch::stable::Tensor& tensor)
      : device_(tensor.get_device_index()), guard_(device_) {}

  cudaStream_t stream() const {
    void* stream = nullptr;
    STD_TORCH_CHECK(
        aoti_torch_get_current_cuda_stream(device_, &stream) == AOTI_TORCH_SUCCESS,
        "camfast: no current stream on CUDA device ", device_);
    return static_cast<cudaStream_t>(stream);
  }
  void check() const { STD_CUDA_KERNEL_LAUNCH_CHECK(); }

 private:
  torch::stable::accelerator::DeviceIndex device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace camfast
