"""What torch wants to know of the operators beside their kernels: shapes, fallbacks, and that autograd is refused.

Shapes (fake kernels) are for ``torch.compile`` and ``torch.export``; the fallbacks serve devices without a kernel.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camfast import reference
from camfast._extension import BUILD_INFO, LOAD_ERROR
from camfast._operands import accumulation_type, check_cam, check_out
from camfast._overlay_operands import check_rgb, check_yuv420


def reference_serves() -> bool:
    """Whether nothing is compiled, so that the reference does all the work; says so once."""
    if BUILD_INFO is None:
        _say_once(LOAD_ERROR or "unknown reason")
    return BUILD_INFO is None


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(f"camfast runs through its PyTorch reference: {reason}", RuntimeWarning, stacklevel=5)


def _cam_shapes(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    rule: str = "gradcam",
    size: Sequence[int] | None = None,
    relu: bool = True,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    height, width = check_cam(activations, gradients, weights, rule, size)
    dtype = accumulation_type(activations.dtype)
    samples = activations.shape[0]
    return (
        activations.new_empty((samples, height, width), dtype=dtype),
        activations.new_empty((samples, 2), dtype=dtype),
    )


def _cam_out_shapes(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    rule: str = "gradcam",
    relu: bool = True,
    normalize: bool = True,
    heatmaps: Tensor,
    ranges: Tensor,
) -> None:
    size = check_cam(activations, gradients, weights, rule, heatmaps.shape[1:])
    check_out((heatmaps, ranges), activations, None, None, size)


def _overlay_shapes(
    frames: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    *,
    alpha: float,
    region: Sequence[int],
    ranges: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    check_rgb(frames, heatmaps, colors, alpha, region, ranges, normalize, in_place=False)
    return torch.empty_like(frames)


def _overlay_in_place_shapes(
    frames: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    *,
    alpha: float,
    region: Sequence[int],
    ranges: Tensor | None = None,
    normalize: bool = False,
) -> None:
    check_rgb(frames, heatmaps, colors, alpha, region, ranges, normalize, in_place=False)


def _overlay_yuv420_shapes(
    luma: Tensor,
    blue: Tensor,
    red: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    *,
    alpha: float,
    region: Sequence[int],
    ranges: Tensor | None = None,
    normalize: bool = False,
) -> None:
    check_yuv420(luma, blue, red, heatmaps, colors, alpha, region, ranges, normalize)


def _cam_into(activations: Tensor, *args: Any, heatmaps: Tensor, ranges: Tensor, **kwargs: Any) -> None:
    reference.cam(activations, *args, size=heatmaps.shape[1:], out=(heatmaps, ranges), **kwargs)


def _nothing_returned(function: Callable[..., Any]) -> Callable[..., None]:
    def call(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)

    return call


def _fallback(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        _say_once(f"no kernel was built for {first.device.type}; see camfast.backends()")
        return function(first, *args, **kwargs)

    return call


SHAPES: dict[str, Callable[..., Any]] = {
    "cam": _cam_shapes,
    "cam.out": _cam_out_shapes,
    "overlay": _overlay_shapes,
    "overlay_": _overlay_in_place_shapes,
    "overlay_yuv420_": _overlay_yuv420_shapes,
}
FALLBACKS: dict[str, Callable[..., Any]] = {
    "cam": _fallback(reference.cam),
    "cam.out": _fallback(_cam_into),
    "overlay": _fallback(reference.overlay),
    "overlay_": _fallback(_nothing_returned(reference.overlay_)),
    "overlay_yuv420_": _fallback(reference.overlay_yuv420_),
}


def _cam_backward(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError(
        "torch.ops.camfast.cam cannot be differentiated; call camfast.ops.cam, which computes it differentiably"
    )


if BUILD_INFO is not None:
    # Kept alive: the registration ends with the object.
    _LIBRARY = torch.library.Library("camfast", "IMPL")  # type: ignore[no-untyped-call]
    for _name in SHAPES:
        torch.library.register_fake(f"camfast::{_name}", SHAPES[_name])
        _LIBRARY.impl(_name, FALLBACKS[_name], "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_autograd("camfast::cam", _cam_backward)
