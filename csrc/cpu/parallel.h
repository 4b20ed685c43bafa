// Runs the tasks of cam.h and overlay.h on torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace camfast {

// Below this many elements a thread is not worth waking.
constexpr int64_t kTaskElements = 16384;

constexpr auto on_torch_threads = [](int64_t count, int64_t cost, const auto& work) {
  if (count == 0) return;
  const int64_t grain = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, cost));
  torch::stable::parallel_for(0, count, grain, work);
};

}  // namespace camfast
