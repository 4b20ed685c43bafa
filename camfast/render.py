"""Heatmaps as colour over frames."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camfast.suggest import did_you_mean

Array = TypeVar("Array", Tensor, npt.NDArray[np.uint8])


def overlay(
    frames: Array,
    heatmaps: Tensor | npt.NDArray[np.floating],
    alpha: float = 0.4,
    colormap: str = "jet",
    *,
    region: Sequence[int] | None = None,
) -> Array:
    """Lay heatmaps over frames: ``(1 - alpha) * frame + alpha * colour(heatmap)``, rounded to the nearest value.

    >>> camfast.overlay(frames, heatmaps, alpha=0.5, colormap="viridis")  # doctest: +SKIP

    Args:
        frames: uint8 RGB [N, H, W, 3], tensor or array; or one frame [H, W, 3].
        heatmaps: [N, h, w] (or [h, w] with one frame) in [0, 1]; resized bilinearly where they are of another size.
        alpha: opacity of the colour, 0 (the frame, bitwise) to 1.
        colormap: the name of any matplotlib colour map.
        region: (top, left, height, width) of the part of the frames that the heatmaps cover; all of it by default.
            Pixels outside are returned bitwise.

    Returns:
        New frames of the same kind, shape and device.

    Raises:
        TypeError: frames are not uint8, or heatmaps are not floating.
        ValueError: shapes, alpha, region or colour map are not as described.
    """
    pixels, maps = _as_tensor("frames", frames), _as_tensor("heatmaps", heatmaps)
    _check(pixels, maps, alpha)
    single = pixels.dim() == 3
    if single:
        pixels, maps = pixels[None], maps[None]
    top, left, height, width = _check_region(region, pixels.shape[1], pixels.shape[2])
    colors = alpha * _color_table(colormap).to(pixels.device)
    if len(maps) and maps.shape[1:] != (height, width):
        maps = interpolate(maps[:, None].float(), (height, width), mode="bilinear", align_corners=False)[:, 0]
    levels = maps.nan_to_num(0).clamp(0, 1).mul(255).round_().to(pixels.device, torch.int32)

    result = pixels.clone(memory_format=torch.contiguous_format)
    covered = result[:, top : top + height, left : left + width]
    for frame, level in zip(covered, levels, strict=True):  # one at a time stays in the cache
        blended = frame.to(torch.float32).mul_(1 - alpha).add_(colors[level])
        frame.copy_(blended.add_(0.5))  # truncated when it becomes uint8
    if single:
        result = result[0]
    return result.numpy() if isinstance(frames, np.ndarray) else result


def check_colormap(name: str) -> None:
    """Raises ValueError, with suggestions, for a colour map that matplotlib does not have."""
    if name not in matplotlib.colormaps:
        raise ValueError(f"colormap {name!r} is unknown to matplotlib; {did_you_mean(name, matplotlib.colormaps)}")


@functools.lru_cache(maxsize=32)
def _color_table(colormap: str) -> Tensor:
    """Colours of 256 levels, float32 [256, 3] in [0, 255]."""
    check_colormap(colormap)
    table = matplotlib.colormaps[colormap](np.linspace(0, 1, 256), bytes=True)[:, :3]
    return torch.from_numpy(table.astype(np.float32))


def _as_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))  # torch knows no negative strides
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor or an array")
    return value


def _check(pixels: Tensor, maps: Tensor, alpha: float) -> None:
    if pixels.dtype != torch.uint8:
        raise TypeError(f"frames have dtype {pixels.dtype}; expected uint8")
    if pixels.dim() not in (3, 4) or pixels.shape[-1] != 3:
        raise ValueError(f"frames have shape {list(pixels.shape)}; expected [N, H, W, 3] or [H, W, 3]")
    if not maps.is_floating_point():
        raise TypeError(f"heatmaps have dtype {maps.dtype}; expected a floating dtype, values in [0, 1]")
    if pixels.dim() == 3 and maps.dim() != 2:
        raise ValueError(f"heatmaps have shape {list(maps.shape)}; expected [h, w] with one frame [H, W, 3]")
    if pixels.dim() == 4 and (maps.dim() != 3 or len(maps) != len(pixels)):
        raise ValueError(f"heatmaps have shape {list(maps.shape)}; expected [N, h, w] with N = {len(pixels)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} is out of range; expected 0 to 1")


def _check_region(region: Sequence[int] | None, height: int, width: int) -> tuple[int, int, int, int]:
    if region is None:
        return 0, 0, height, width
    top, left, rows, columns = region
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
        raise ValueError(f"region={tuple(region)} does not lie in frames of {height}×{width}")
    return top, left, rows, columns
