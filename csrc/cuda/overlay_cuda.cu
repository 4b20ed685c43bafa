// Launches overlay_kernel.cuh: how many blocks a frame gets, stream, registration.

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../overlay_operator.h"
#include "launch.h"
#include "overlay_kernel.cuh"

namespace camfast {
namespace {

struct Cuda {
  static void rgb(const RgbOverlay& call, const Tensor& on) {
    const bool in_place = call.in_place();
    const int64_t rows = in_place ? call.region.height : call.height;
    const int64_t columns = in_place ? call.region.width : call.width;
    run<rgb_overlay_kernel, RgbArguments>(call, rows, (columns + 3) / 4, on);
  }
  static void yuv420(const Yuv420Overlay& call, const Tensor& on) {
    run<yuv420_overlay_kernel, Yuv420Arguments>(
        call, (call.region.height + 1) / 2, (call.region.width + 7) / 8, on);
  }

 private:
  // `rows` times `columns` patches in a frame, one a thread and turn.
  template <auto kKernel, typename Arguments, typename Overlay>
  static void run(const Overlay& call, int64_t rows, int64_t columns, const Tensor& on) {
    const Launch launch(on);
    // A block that finds the range of the map looks at all of the map: then there are as few as the device has room for.
    const int64_t blocks_wanted = launch.multiprocessors() * (call.normalize ? 2 : 16);
    const int64_t turns = (rows * columns + kOverlayThreads - 1) / kOverlayThreads;
    int64_t shares = std::min({rows, turns, (blocks_wanted + call.samples - 1) / call.samples});
    if (shares < 1) shares = 1;
    const int64_t blocks = call.samples * shares;
    STD_TORCH_CHECK(blocks < int64_t(1) << 31, "camfast::overlay: too many frames for one launch on CUDA");
    launch.run<kKernel>(blocks, 1, kOverlayThreads, sizeof(OverlayShared), Arguments{call, static_cast<int>(shares)});
  }
};

}  // namespace
}  // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) {
  m.impl("overlay", TORCH_BOX(&camfast::overlay<camfast::Cuda>));
  m.impl("overlay_", TORCH_BOX(&camfast::overlay_<camfast::Cuda>));
  m.impl("overlay_yuv420_", TORCH_BOX(&camfast::overlay_yuv420_<camfast::Cuda>));
}
