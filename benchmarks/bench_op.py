"""How fast are the fused operators, against PyTorch, the peers, and the memory of the machine?

    python benchmarks/bench_op.py                                     # table on standard output
    python benchmarks/bench_op.py --json benchmarks/results/op-cpu.json
    python benchmarks/bench_op.py --device cuda --json benchmarks/results/op-h200.json

What computes a cam is first held to the float64 definition, and our overlay to the reference; then all are timed, in
turn. Contenders:

    camfast        ops.cam, ops.overlay, ops.overlay_yuv420_
    out            ops.cam(..., out=...): no allocation
    new frames     ops.overlay: not in place
    reference      camfast.reference: the same steps in plain PyTorch
    eager          Grad-CAM as anybody would write it in PyTorch: mean, product, sum, relu, interpolate, normalize
    compile        torch.compile of the reference
    opencv         Grad-CAM as pytorch-grad-cam computes it: NumPy, and OpenCV for the size
    grad-cam       pytorch-grad-cam's overlay: OpenCV's resize and colour map, NumPy's blend, frame by frame
    torchcam       torchcam's overlay: PIL's resize and blend, matplotlib's colour map, frame by frame
    read, write    reading the operands (their sum), writing a result (fill_), each alone
    copy           copying, so that as many bytes are read and written in all
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import interleaved, machine, write
from tables import op_table
from torch import Tensor

import camfast
from camfast import ops, reference
from camfast.colors import rgb_colors, yuv_colors

# [N, C, h, w] and (H, W): the last layers of ResNet-18, ResNet-50 and EfficientNet-Lite0, an early layer, one frame.
WORK = [
    ((8, 512, 7, 7), (224, 224)),
    ((8, 2048, 7, 7), (224, 224)),
    ((8, 1280, 7, 7), (720, 1280)),
    ((8, 256, 56, 56), (224, 224)),
    ((1, 2048, 7, 7), (224, 224)),
]
# What does not fit into any cache, so that it is memory that is compared with.
LARGE_WORK = ((64, 256, 56, 56), (224, 224))
FORMS = [
    (torch.float32, torch.contiguous_format),
    (torch.float32, torch.channels_last),
    (torch.bfloat16, torch.contiguous_format),
    (torch.bfloat16, torch.channels_last),
]
FRAMES, MANY_FRAMES, HEIGHT, WIDTH = 8, 64, 720, 1280
ALPHA = 0.4
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-5}  # both are summed in float32
EAGER_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # theirs is summed in their own


def eager(activations: Tensor, gradients: Tensor, size: tuple[int, int]) -> Tensor:
    layer = (gradients.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True).relu()
    maps = torch.nn.functional.interpolate(layer, size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


def opencv(activations: np.ndarray, gradients: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from pytorch_grad_cam.utils.image import scale_cam_image

    layer = (gradients.mean((2, 3))[:, :, None, None] * activations).sum(1)
    # Once for each layer, and once more for the mean of the layers.
    return scale_cam_image(scale_cam_image(np.maximum(layer, 0), size[::-1]))


def bench_cam(
    shape: tuple[int, ...],
    size: tuple[int, int],
    dtype: torch.dtype,
    layout: torch.memory_format,
    device: torch.device,
    seconds: float,
    with_compile: bool,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(shape, generator=generator).relu().to(device, dtype, memory_format=layout)
    gradients = torch.randn(shape, generator=generator).to(device, dtype, memory_format=layout)
    out = (torch.empty(shape[0], *size, device=device), torch.empty(shape[0], 2, device=device))
    bytes_read = 2 * activations.numel() * activations.element_size()
    bytes_written = 4 * out[0].numel()
    source = torch.empty((bytes_read + bytes_written) // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    contenders: dict[str, Callable[[], Any]] = {
        "camfast": lambda: ops.cam(activations, gradients, size=size),
        "out": lambda: ops.cam(activations, gradients, size=size, out=out),
        "reference": lambda: reference.cam(activations, gradients, size=size),
        "eager": lambda: eager(activations, gradients, size),
    }
    main = dtype == torch.float32 and layout == torch.contiguous_format
    if main and with_compile:
        compiled = torch.compile(reference.cam, dynamic=False)
        contenders["compile"] = lambda: compiled(activations, gradients, size=size)
    if main and device.type == "cpu":
        contenders["opencv"] = lambda: opencv(activations.numpy(), gradients.numpy(), size)

    expected = reference.cam(activations.double(), gradients.double(), size=size)[0]
    errors = {}
    for name, call in contenders.items():
        result = call()
        maps = torch.as_tensor(result[0] if isinstance(result, tuple) else result, device=device)
        errors[name] = float((maps - expected).abs().max())
        allowed = TOLERANCE[dtype] if name in ("camfast", "out", "reference", "compile") else EAGER_TOLERANCE[dtype]
        assert errors[name] <= allowed or (name == "opencv" and errors[name] <= 0.05), (name, errors[name])

    contenders |= {
        "read": lambda: (activations.sum(), gradients.sum()),
        "write": lambda: torch.empty_like(out[0]).fill_(0),
        "copy": lambda: target.copy_(source),
    }
    return {
        "work": "cam",
        "shape": list(shape),
        "size": list(size),
        "dtype": str(dtype).removeprefix("torch."),
        "layout": "channels-last" if layout == torch.channels_last else "contiguous",
        "bytes": bytes_read + bytes_written,
        "max_error": errors,
        "milliseconds": interleaved(contenders, seconds),
    }


def bench_overlay(layout: str, count: int, device: torch.device, seconds: float) -> dict[str, Any]:
    """Layer-size maps over frames, in place; the peers return new frames, and so does a contender of ours."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand((count, 7, 7), generator=generator).to(device)

    def random_bytes(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)

    if layout == "yuv420":
        planes = [
            random_bytes(count, HEIGHT, WIDTH),
            *(random_bytes(count, HEIGHT // 2, WIDTH // 2) for _ in range(2)),
        ]
        colors = yuv_colors("jet").to(device)

        def run(module: Any) -> None:
            module.overlay_yuv420_(*planes, maps, colors, alpha=ALPHA, normalize=True)
    else:
        planes = [random_bytes(count, HEIGHT, WIDTH, 3)]
        if layout == "planar":
            planes = [planes[0].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)]
        colors = rgb_colors("jet").to(device)

        def run(module: Any) -> None:
            module.overlay_(planes[0], maps, colors, alpha=ALPHA, normalize=True)

    start = [plane.clone() for plane in planes]
    results = []
    for module in (ops, reference):
        run(module)
        results.append([plane.clone() for plane in planes])
        for plane, original in zip(planes, start, strict=True):
            plane.copy_(original)
    difference = max(int((a.int() - b.int()).abs().max()) for a, b in zip(*results, strict=True))
    assert difference <= 8, f"{layout}: {difference}"  # levels may differ by one where they are rounded

    copies = [torch.empty_like(plane) for plane in planes]
    contenders: dict[str, Callable[[], Any]] = {"camfast": lambda: run(ops)}
    if count == FRAMES:
        contenders["reference"] = lambda: run(reference)
    if layout != "yuv420":
        contenders["new frames"] = lambda: ops.overlay(planes[0], maps, colors, alpha=ALPHA, normalize=True)
    if layout == "packed" and device.type == "cpu":
        contenders |= overlays_of_peers(planes[0].numpy(), maps.numpy())
    contenders["copy"] = lambda: [copy.copy_(plane) for copy, plane in zip(copies, planes, strict=True)]
    return {
        "work": "overlay",
        "shape": [count, HEIGHT, WIDTH],
        "layout": layout,
        "bytes": 2 * sum(plane.numel() for plane in planes),
        "max_difference": difference,
        "milliseconds": interleaved(contenders, seconds),
    }


def overlays_of_peers(frames: np.ndarray, maps: np.ndarray) -> dict[str, Callable[[], Any]]:
    """What users of the peers do with a map of the layer and a frame, as their documentation shows it."""
    import cv2
    from PIL import Image
    from pytorch_grad_cam.utils.image import show_cam_on_image
    from torchcam.utils import overlay_mask
    from torchvision.transforms.functional import to_pil_image

    def grad_cam() -> None:
        for frame, heatmap in zip(frames, maps, strict=True):
            resized = cv2.resize(heatmap, (WIDTH, HEIGHT))
            show_cam_on_image(np.float32(frame) / 255, resized, use_rgb=True)

    def torchcam() -> None:
        for frame, heatmap in zip(frames, maps, strict=True):
            overlay_mask(Image.fromarray(frame), to_pil_image(heatmap, mode="F"), alpha=1 - ALPHA)

    return {"grad-cam": grad_cam, "torchcam": torchcam}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each contender (default 1)")
    parser.add_argument("--quick", action="store_true", help="the first shape only, and no torch.compile: does it run?")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    camfast.keep_memory()  # fresh pages cost more than some contenders, and would fall on one or another by chance

    cases = []
    with torch.inference_mode():
        for shape, size in WORK[:1] if arguments.quick else WORK:
            for dtype, layout in FORMS:
                cases.append(bench_cam(shape, size, dtype, layout, device, arguments.seconds, not arguments.quick))
                print(f"{shape} {dtype} {layout}: done", flush=True)
        if not arguments.quick:
            for dtype, layout in FORMS:
                cases.append(bench_cam(*LARGE_WORK, dtype, layout, device, arguments.seconds, False))
        for layout in ("packed", "planar", "yuv420"):
            cases.append(bench_overlay(layout, FRAMES, device, arguments.seconds))
        if not arguments.quick:
            cases.append(bench_overlay("yuv420", MANY_FRAMES, device, arguments.seconds))
    results = {"benchmark": "op", "machine": machine(device), "cases": cases}
    print(op_table(results))
    write(results, arguments.json)


if __name__ == "__main__":
    main()
