// torch's element types as the kernels, which know no torch, call them.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "kernels.h"

namespace camfast {

template <typename T>
using Element = std::conditional_t<
    std::is_same_v<T, torch::headeronly::Half>,
    Float16,
    std::conditional_t<std::is_same_v<T, torch::headeronly::BFloat16>, BFloat16, T>>;

}  // namespace camfast
