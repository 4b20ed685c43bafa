"""Checks the operands of `cam`: what is wrong is named before anything is computed or allocated."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from camfast._memory import check_memory

RULES = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise")
ELEMENT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LONGEST_SIDE = 2**30
LARGEST_BYTE_COUNT = 2**63 - 1


def accumulation_type(dtype: torch.dtype) -> torch.dtype:
    """The type that sums and results have: float64 for float64, float32 for all else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_cam(
    activations: Tensor,
    gradients: Tensor | None,
    weights: Tensor | None,
    rule: str,
    size: Sequence[int] | None,
) -> tuple[int, ...]:
    """The shape of the heatmaps, after every check of :func:`camfast.ops.cam`'s operands."""
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown; expected one of {', '.join(map(repr, RULES))}")
    check_floating("activations", activations)
    if activations.dim() != 4:
        raise ValueError(f"activations has shape {list(activations.shape)}; expected [N, C, h, w]")
    samples, channels, layer_height, layer_width = activations.shape
    if channels == 0 or layer_height == 0 or layer_width == 0:
        raise ValueError(f"activations has shape {list(activations.shape)}; expected C, h and w of at least 1")

    if (gradients is None) == (weights is None):
        given = "neither" if gradients is None else "both"
        raise ValueError(f"expected either gradients or weights, {given} given")
    batch: tuple[int, ...] = (samples,)
    if gradients is not None:
        check_floating("gradients", gradients)
        if gradients.dim() == 5 or gradients.shape != activations.shape:
            batch = _several("gradients", gradients, activations.shape)
        if gradients.dtype != activations.dtype:
            raise TypeError(f"gradients has dtype {gradients.dtype}; expected that of activations, {activations.dtype}")
        check_device("gradients", gradients, "activations", activations)
    if weights is not None:
        if rule != "gradcam":
            raise ValueError(f"rule={rule!r} needs gradients, but weights were given; leave the rule out")
        check_floating("weights", weights)
        if weights.dim() == 3 or weights.shape != activations.shape[:2]:
            batch = _several("weights", weights, activations.shape[:2])
        check_device("weights", weights, "activations", activations)

    maps = samples if len(batch) == 1 else samples * batch[1]
    countable = is_countable(maps * (channels // 32 + 1), layer_height, layer_width)
    if layer_height >= LONGEST_SIDE or layer_width >= LONGEST_SIDE or not countable:
        times = "" if len(batch) == 1 else f" {batch[1]} times"
        raise ValueError(f"activations has shape {list(activations.shape)}, which is too large to be mapped{times}")
    return *batch, *_check_size(size, activations, maps)


def check_out(
    out: tuple[Tensor, Tensor],
    activations: Tensor,
    gradients: Tensor | None,
    weights: Tensor | None,
    shape: tuple[int, ...],
) -> None:
    """Checks what :func:`camfast.ops.cam` is to write heatmaps of this shape into; the operands are checked already."""
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(f"out is {described(out)}; expected two tensors, (heatmaps, ranges)")
    dtype = accumulation_type(activations.dtype)
    for name, tensor, expected in zip(("heatmaps", "ranges"), out, (shape, ranges_shape(shape)), strict=True):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} in out is {described(tensor)}; expected a torch.Tensor")
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{name} in out has shape {list(tensor.shape)}; expected {list(expected)}")
        if tensor.dtype != dtype:
            raise TypeError(f"{name} in out has dtype {tensor.dtype}; expected {dtype}")
        check_device(f"{name} in out", tensor, "activations", activations)
        if torch.is_grad_enabled() and tensor.requires_grad:
            raise ValueError(f"{name} in out requires grad; give one that does not, or use no_grad")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} in out has strides {tensor.stride()}; expected a contiguous tensor")
    operands = {"activations": activations, "gradients": gradients, "weights": weights}
    check_memory({"heatmaps in out": out[0], "ranges in out": out[1]}, operands)


def ranges_shape(heatmaps: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the ranges that belong to heatmaps of a shape."""
    return *heatmaps[:-2], 2


def described(value: object) -> str:
    return f"a {type(value).__name__}"


def check_floating(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {described(value)}; expected a torch.Tensor")
    if value.dtype not in ELEMENT_TYPES:
        raise TypeError(f"{name} has dtype {value.dtype}; expected float32, float16, bfloat16 or float64")
    if value.layout != torch.strided:
        raise TypeError(f"{name} has layout {value.layout}; expected a dense tensor: call .to_dense() first")


def check_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device}; expected the device of {other_name}, {other.device}")


def check_scale(values: Tensor, step: float, zero: int) -> None:
    check_floating("values", values)
    if values.dtype == torch.float64:
        raise TypeError("values has dtype torch.float64; expected float32, float16 or bfloat16: call .float() first")
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step is {step}; expected a finite number above 0")
    if not 0 <= zero <= 255:
        raise ValueError(f"zero is {zero}; expected 0 to 255")


def _several(name: str, explained: Tensor, one: torch.Size) -> tuple[int, int]:
    """(N, K) of gradients or weights that ask for K maps of every sample; ``one`` is the shape of those for one map."""
    shape = tuple(explained.shape)
    if len(shape) != len(one) + 1 or (shape[0], *shape[2:]) != one:
        form = "that of activations," if name == "gradients" else "[N, C] ="
        several = ", ".join(map(str, (one[0], "K", *one[1:])))
        raise ValueError(
            f"{name} has shape {list(shape)}; expected {form} {list(one)}, or [{several}] for K maps of every sample"
        )
    return shape[0], shape[1]


def _check_size(size: Sequence[int] | None, activations: Tensor, maps: int) -> tuple[int, int]:
    _, _, layer_height, layer_width = activations.shape
    if size is None:
        return layer_height, layer_width
    sides = tuple(size) if isinstance(size, Iterable) else ()
    if len(sides) != 2 or not all(map(is_whole, sides)):
        raise ValueError(f"size={size!r}; expected (height, width), two whole numbers")
    height, width = map(as_whole, sides)
    if height < 1 or width < 1 or height >= LONGEST_SIDE or width >= LONGEST_SIDE:
        raise ValueError(f"size={sides}; expected sides from 1 to 2**30 - 1")
    itemsize = accumulation_type(activations.dtype).itemsize
    if maps * height * width * itemsize > LARGEST_BYTE_COUNT:
        raise ValueError(f"size={sides} for {maps} maps takes more bytes than can be addressed")
    return height, width


def as_whole(side: Any) -> int:
    """A number that is_whole() as an int, which may be symbolic."""
    return side if isinstance(side, torch.SymInt) else operator.index(side)  # type: ignore[return-value]


def is_countable(maps: int, height: int, width: int) -> bool:
    """Whether scratch memory for so many maps can be counted in bytes; as in ``csrc/cam_math.h``."""
    return maps * height * (width + 64) <= LARGEST_BYTE_COUNT // 128


def is_whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, torch.Tensor))
