"""What torch wants to know of the operators beside their kernels: shapes, fallbacks, and that autograd is refused.

Shapes (fake kernels) are for ``torch.compile`` and ``torch.export``; the fallbacks serve devices without a kernel.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camfast import reference
from camfast._extension import BUILD_INFO, LOAD_ERROR
from camfast._operands import accumulation_type, check_cam, check_out, check_scale, ranges_shape
from camfast._overlay_operands import check_rgb, check_yuv420


def is_compiled() -> bool:
    """Whether there are compiled operators."""
    return BUILD_INFO is not None


def reference_serves() -> bool:
    """Whether nothing is compiled, so that the reference does all the work; says so once."""
    if not is_compiled():
        _say_once(LOAD_ERROR or "unknown reason")
    return not is_compiled()


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(f"camfast runs through its PyTorch reference: {reason}", RuntimeWarning, stacklevel=5)


# What the operator has for every map, and its rank.
_RANKS = {"gradients": 4, "weights": 2, "heatmaps": 3, "ranges": 2}


def _by_sample(activations: Tensor, **tensors: Tensor | None) -> list[Any]:
    """Tensors [K * N, ...] of the operator as [N, K, ...], which is how its functions take them, where K is not 1."""
    samples = activations.shape[0] if activations.dim() == 4 else 1  # check_cam refuses other ranks
    return [None if t is None else _split(name, t, samples) for name, t in tensors.items()]


def _split(name: str, tensor: Tensor, samples: int) -> Tensor:
    shape = tensor.shape
    if tensor.dim() == _RANKS[name]:
        if shape[0] == samples:
            return tensor
        if samples > 0 and shape[0] % samples == 0:
            return tensor.view(samples, shape[0] // samples, *shape[1:])
    raise ValueError(f"{name} has shape {list(shape)}; expected rank {_RANKS[name]} and a multiple of {samples} maps")


def _flat_shape(heatmaps: tuple[int, ...]) -> tuple[int, ...]:
    return math.prod(heatmaps[:-2]), *heatmaps[-2:]


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
    gradients, weights = _by_sample(activations, gradients=gradients, weights=weights)
    shape = _flat_shape(check_cam(activations, gradients, weights, rule, size))
    dtype = accumulation_type(activations.dtype)
    return activations.new_empty(shape, dtype=dtype), activations.new_empty(ranges_shape(shape), dtype=dtype)


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
    gradients, weights = _by_sample(activations, gradients=gradients, weights=weights)
    shape = _flat_shape(check_cam(activations, gradients, weights, rule, heatmaps.shape[1:]))
    check_out((heatmaps, ranges), activations, None, None, shape)


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


def _quantize_shapes(values: Tensor, *, step: float, zero: int) -> Tensor:
    check_scale(values, step, zero)
    return torch.empty_like(values, dtype=torch.uint8)


def _cam(
    activations: Tensor, gradients: Tensor | None = None, weights: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    gradients, weights = _by_sample(activations, gradients=gradients, weights=weights)
    heatmaps, ranges = reference.cam(activations, gradients, weights, **options)
    return heatmaps.flatten(0, -3), ranges.flatten(0, -2)


def _cam_into(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    heatmaps: Tensor,
    ranges: Tensor,
    **options: Any,
) -> None:
    gradients, weights = _by_sample(activations, gradients=gradients, weights=weights)
    out = _by_sample(activations, heatmaps=heatmaps, ranges=ranges)
    reference.cam(activations, gradients, weights, size=heatmaps.shape[1:], out=(out[0], out[1]), **options)


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
    "quantize": _quantize_shapes,
}
FALLBACKS: dict[str, Callable[..., Any]] = {
    "cam": _fallback(_cam),
    "cam.out": _fallback(_cam_into),
    "overlay": _fallback(reference.overlay),
    "overlay_": _fallback(_nothing_returned(reference.overlay_)),
    "overlay_yuv420_": _fallback(reference.overlay_yuv420_),
    "quantize": _fallback(reference.quantize),
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
