// Tensors as NumPy's .npy files.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace camfast {

// float32, float64, uint8 or int64, in C order. Throws Error for what is no such file.
at::Tensor read_array(const std::string& path);

// The file appears under its name when it is whole.
void write_array(const std::string& path, const at::Tensor& array);

}  // namespace camfast
