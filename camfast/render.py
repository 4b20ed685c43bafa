"""Heatmaps as colour over frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camfast import ops
from camfast.colors import rgb_colors, yuv_colors

Array = TypeVar("Array", Tensor, npt.NDArray[np.uint8])
Maps = Tensor | npt.NDArray[np.floating]

LAYOUTS = ("packed", "planar")


def overlay(
    frames: Array,
    heatmaps: Maps,
    alpha: float = 0.4,
    colormap: str = "jet",
    *,
    region: Sequence[int] | None = None,
    ranges: Maps | None = None,
    normalize: bool = False,
    layout: str = "packed",
) -> Array:
    """Lay heatmaps over frames: ``(1 - alpha) * frame + alpha * colour(heatmap)``, rounded to the nearest value.

    >>> camfast.overlay(frames, heatmaps, alpha=0.5, colormap="viridis")  # doctest: +SKIP

    Maps may be of any size, that of the layer is best: ``camfast.ops.cam(..., size=None, normalize=False)`` and then
    ``overlay(frames, maps, normalize=True)`` read and write the frame once, and no heatmap of its size ever exists.

    Args:
        frames: uint8 RGB [N, H, W, 3], tensor or array; or one frame [H, W, 3].
        heatmaps: [N, h, w] (or [h, w] with one frame) in [0, 1]; interpolated where they are of another size.
        alpha: opacity of the colour, 0 (the frame, bitwise) to 1, in steps of 1 / 16384.
        colormap: the name of any matplotlib colour map.
        region: (top, left, height, width) of the part of the frames that the heatmaps cover; all of it by default.
            Pixels outside are returned bitwise.
        ranges: [N, 2] (or [2] with one frame), for maps that are not in [0, 1]: the values that become 0 and 1.
        normalize: for maps that are not in [0, 1]: from the least to the greatest value of each map as it is drawn.
        layout: ``"packed"``, or ``"planar"`` for frames [N, 3, H, W] (or [3, H, W]).

    Returns:
        New frames of the same kind, shape and device.

    Raises:
        TypeError: frames are not uint8, or heatmaps are not floating.
        ValueError: shapes, alpha, region, colour map or layout are not as described.
    """
    pixels, maps, limits, single = _batched(frames, heatmaps, ranges, layout)
    colors = rgb_colors(colormap).to(pixels.device)
    result = ops.overlay(pixels, maps, colors, alpha=alpha, region=region, ranges=limits, normalize=normalize)
    if layout == "planar":
        result = result.permute(0, 3, 1, 2)
    if single:
        result = result[0]
    return result.numpy() if isinstance(frames, np.ndarray) else result


def overlay_(
    frames: Array,
    heatmaps: Maps,
    alpha: float = 0.4,
    colormap: str = "jet",
    *,
    region: Sequence[int] | None = None,
    ranges: Maps | None = None,
    normalize: bool = False,
    layout: str = "packed",
) -> Array:
    """:func:`overlay` in place: the frames are changed, and returned.

    Raises:
        TypeError, ValueError: as :func:`overlay`; and for frames that are read-only, or whose elements share memory.
    """
    if isinstance(frames, np.ndarray) and (not frames.flags.writeable or min(frames.strides, default=0) < 0):
        raise ValueError("frames is an array that cannot be changed in place; use overlay(), or give a copy")
    pixels, maps, limits, _ = _batched(frames, heatmaps, ranges, layout)
    colors = rgb_colors(colormap).to(pixels.device)
    ops.overlay_(pixels, maps, colors, alpha=alpha, region=region, ranges=limits, normalize=normalize)
    return frames


def overlay_yuv420_(
    luma: Tensor,
    blue: Tensor,
    red: Tensor,
    heatmaps: Maps,
    alpha: float = 0.4,
    colormap: str = "jet",
    *,
    region: Sequence[int] | None = None,
    ranges: Maps | None = None,
    normalize: bool = False,
    matrix: str = "bt709",
    full_range: bool = False,
) -> None:
    """:func:`overlay_` on the planes of YUV 4:2:0 frames, as video decoders give them.

    >>> y, u, v = (  # of PyAV, whose lines are longer than the frame is wide
    ...     torch.frombuffer(plane, dtype=torch.uint8).view(1, -1, plane.line_size)[..., : plane.width]
    ...     for plane in frame.planes
    ... )  # doctest: +SKIP
    >>> camfast.overlay_yuv420_(y, u, v, heatmaps)  # doctest: +SKIP

    Args:
        luma: uint8 [N, H, W], any strides.
        blue, red: uint8 [N, ceil(H / 2), ceil(W / 2)], any strides. A sample changes where every pixel that it covers
            lies in the region.
        heatmaps, alpha, colormap, region, ranges, normalize: as for :func:`overlay`.
        matrix: ``"bt709"``, ``"bt601"`` or ``"bt2020"``, the frames' own.
        full_range: whether luma uses 0 to 255 rather than 16 to 235.

    Raises:
        TypeError, ValueError: as :func:`overlay_`, by the names of the planes.
    """
    maps = _as_tensor("heatmaps", heatmaps)
    limits = None if ranges is None else _as_tensor("ranges", ranges)
    colors = yuv_colors(colormap, matrix, full_range)
    if isinstance(luma, Tensor):
        colors = colors.to(luma.device)
    ops.overlay_yuv420_(luma, blue, red, maps, colors, alpha=alpha, region=region, ranges=limits, normalize=normalize)


def _batched(frames: Any, heatmaps: Any, ranges: Any, layout: str) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """Frames as [N, H, W, 3], maps, ranges, and whether it was one frame alone."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; expected one of {', '.join(map(repr, LAYOUTS))}")
    pixels, maps = _as_tensor("frames", frames), _as_tensor("heatmaps", heatmaps)
    limits = None if ranges is None else _as_tensor("ranges", ranges)
    packed = layout == "packed"
    if pixels.dim() not in (3, 4) or pixels.shape[-1 if packed else -3] != 3:
        expected = "[N, H, W, 3] or [H, W, 3]" if packed else "[N, 3, H, W] or [3, H, W]"
        raise ValueError(f"frames has shape {list(pixels.shape)}; expected {expected} with layout={layout!r}")
    single = pixels.dim() == 3
    if single:
        if maps.dim() != 2:
            raise ValueError(f"heatmaps has shape {list(maps.shape)}; expected [h, w] with one frame")
        if limits is not None and limits.shape != (2,):
            raise ValueError(f"ranges has shape {list(limits.shape)}; expected [2] with one frame")
        pixels, maps = pixels[None], maps[None]
        limits = None if limits is None else limits[None]
    if not packed:
        pixels = pixels.permute(0, 2, 3, 1)
    return pixels, maps, limits, single


def _as_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        if min(value.strides, default=0) < 0 or not value.flags.writeable:
            value = value.copy()  # torch knows no negative strides, and warns of arrays that cannot be written
        try:
            return torch.from_numpy(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} is an array of {value.dtype} that torch cannot take: {error}") from None
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor or an array")
    return value
