"""Checks the operands of the overlays: what is wrong is named before a pixel is touched."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from camfast._memory import check_memory
from camfast._operands import LONGEST_SIDE, as_whole, check_device, check_floating, described, is_countable, is_whole

LEVELS = 256
Region = tuple[int, int, int, int]


def check_rgb(
    frames: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    alpha: float,
    region: Sequence[int] | None,
    ranges: Tensor | None,
    normalize: bool,
    *,
    in_place: bool,
) -> Region:
    """The region in full, after every check of the operands of an RGB overlay."""
    _check_bytes("frames", frames)
    if frames.dim() != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames has shape {list(frames.shape)}; expected [N, H, W, 3]")
    checked = _check_map("frames", frames, heatmaps, colors, alpha, region, ranges, normalize)
    if in_place:
        check_memory({"frames": frames}, {"heatmaps": heatmaps, "colors": colors, "ranges": ranges})
    return checked


def check_yuv420(
    luma: Tensor,
    blue: Tensor,
    red: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    alpha: float,
    region: Sequence[int] | None,
    ranges: Tensor | None,
    normalize: bool,
) -> Region:
    """The region in full, after every check of the operands of an overlay of YUV 4:2:0 planes."""
    planes = {"luma": luma, "blue": blue, "red": red}
    for name, plane in planes.items():
        _check_bytes(name, plane)
    if luma.dim() != 3:
        raise ValueError(f"luma has shape {list(luma.shape)}; expected [N, H, W]")
    samples, height, width = luma.shape
    expected = [samples, (height + 1) // 2, (width + 1) // 2]
    for name in ("blue", "red"):
        if list(planes[name].shape) != expected:
            raise ValueError(
                f"{name} has shape {list(planes[name].shape)}; expected {expected}, half of luma, rounded up"
            )
        check_device(name, planes[name], "luma", luma)
    checked = _check_map("luma", luma, heatmaps, colors, alpha, region, ranges, normalize)
    check_memory(planes, {"heatmaps": heatmaps, "colors": colors, "ranges": ranges})
    return checked


def _check_map(
    name: str,
    frames: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    alpha: float,
    region: Sequence[int] | None,
    ranges: Tensor | None,
    normalize: bool,
) -> Region:
    samples = frames.shape[0]
    check_floating("heatmaps", heatmaps)
    if heatmaps.dim() != 3 or heatmaps.shape[0] != samples:
        raise ValueError(f"heatmaps has shape {list(heatmaps.shape)}; expected [N, h, w] with N = {samples}")
    if heatmaps.shape[1] == 0 or heatmaps.shape[2] == 0:
        raise ValueError(f"heatmaps has shape {list(heatmaps.shape)}; expected h and w of at least 1")
    if any(side >= LONGEST_SIDE for side in (*heatmaps.shape[1:], *frames.shape[1:3])):
        raise ValueError(f"a side of {name} or heatmaps is 2**30 or longer")
    if not is_countable(*heatmaps.shape):
        raise ValueError(f"heatmaps has shape {list(heatmaps.shape)}, which is too large to be drawn")
    check_device("heatmaps", heatmaps, name, frames)
    _check_bytes("colors", colors)
    if tuple(colors.shape) != (LEVELS, 3):
        raise ValueError(f"colors has shape {list(colors.shape)}; expected [{LEVELS}, 3], the colour of every level")
    check_device("colors", colors, name, frames)
    if not isinstance(alpha, (numbers.Real, torch.SymFloat)):
        raise TypeError(f"alpha is {described(alpha)}; expected a number from 0 to 1")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha!r} is out of range; expected 0 to 1")
    if ranges is not None:
        if normalize:
            raise ValueError("ranges and normalize=True were given; expected one of the two")
        check_floating("ranges", ranges)
        if tuple(ranges.shape) != (samples, 2):
            raise ValueError(f"ranges has shape {list(ranges.shape)}; expected [N, 2] = {[samples, 2]}")
        check_device("ranges", ranges, name, frames)
    return check_region(region, frames.shape[1], frames.shape[2])


def check_region(region: Sequence[int] | None, height: int, width: int) -> Region:
    """(top, left, height, width) of a region in frames of ``height`` × ``width``; all of it for None."""
    if region is None:
        return 0, 0, height, width
    sides = tuple(region) if isinstance(region, Iterable) else ()
    if len(sides) != 4 or not all(map(is_whole, sides)):
        raise ValueError(f"region={region!r}; expected (top, left, height, width), four whole numbers")
    top, left, rows, columns = map(as_whole, sides)
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
        raise ValueError(f"region={sides} does not lie in frames of {height}×{width}")
    return top, left, rows, columns


def _check_bytes(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {described(value)}; expected a torch.Tensor")
    if value.dtype != torch.uint8:
        raise TypeError(f"{name} has dtype {value.dtype}; expected torch.uint8")
    if value.layout != torch.strided:
        raise TypeError(f"{name} has layout {value.layout}; expected a dense tensor")
