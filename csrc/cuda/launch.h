// What every launch needs around it: the tensor's device and its limits, the caller's stream, and a check afterwards.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace camfast {

class Launch {
 public:
  explicit Launch(const torch::stable::Tensor& tensor)
      : device_(tensor.get_device_index()), guard_(device_) {}

  int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }
  int64_t shared_bytes() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

  // Whether the code that this device runs was compiled for clusters: asked once for each kernel and device.
  template <auto kKernel>
  bool has_clusters() const {
    enum { kUnknown, kNo, kYes };
    static std::array<std::atomic<int>, 64> answers{};
    std::atomic<int>& answer = answers[static_cast<std::size_t>(device_) % answers.size()];
    if (answer == kUnknown) {
      cudaFuncAttributes attributes;
      STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kKernel));
      answer = attributes.ptxVersion >= 90 ? kYes : kNo;
    }
    return answer == kYes;
  }

  // Queues one launch of `blocks` blocks, in clusters of `cluster`.
  template <auto kKernel, typename Arguments>
  void run(int64_t blocks, int cluster, int threads, int64_t bytes, const Arguments& arguments) const {
    constexpr int64_t granted = 48 * 1024;  // to every kernel, unasked
    if (bytes > granted)
      STD_CUDA_CHECK(cudaFuncSetAttribute(
          kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
    config.stream = stream();
    config.attrs = &attribute;
    config.numAttrs = cluster > 1 ? 1 : 0;
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kKernel, arguments));
  }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device_));
    return value;
  }
  cudaStream_t stream() const {
    void* stream = nullptr;
    STD_TORCH_CHECK(
        aoti_torch_get_current_cuda_stream(device_, &stream) == AOTI_TORCH_SUCCESS,
        "camfast: no current stream on CUDA device ", device_);
    return static_cast<cudaStream_t>(stream);
  }

  torch::stable::accelerator::DeviceIndex device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace camfast
