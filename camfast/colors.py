"""Colours of the 256 levels of a heatmap, in RGB and in YUV."""

from __future__ import annotations

import functools

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camfast._overlay_operands import LEVELS
from camfast.suggest import did_you_mean

# The weights of red and blue in luma, from ITU-R BT.601, BT.709 and BT.2020; green has the rest.
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def check_colormap(name: str) -> None:
    """Raises ValueError, with suggestions, for a colour map that matplotlib does not have."""
    if not isinstance(name, str):
        raise TypeError(f"colormap is a {type(name).__name__}; expected the name of a matplotlib colour map")
    if name not in matplotlib.colormaps:
        raise ValueError(f"colormap {name!r} is unknown to matplotlib; {did_you_mean(name, matplotlib.colormaps)}")


def rgb_colors(colormap: str) -> Tensor:
    """Red, green and blue of every level: uint8 [256, 3].

    Raises:
        TypeError, ValueError: not the name of a colour map of matplotlib; the message has the closest names.
    """
    check_colormap(colormap)
    return torch.from_numpy(_rgb_table(colormap).copy())


# Arrays are kept, not tensors: those belong to whatever mode they were made in.
@functools.lru_cache(maxsize=32)
def _rgb_table(colormap: str) -> npt.NDArray[np.uint8]:
    table: npt.NDArray[np.uint8] = matplotlib.colormaps[colormap](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    return table


def yuv_colors(colormap: str, matrix: str = "bt709", full_range: bool = False) -> Tensor:
    """Luma, blue and red chroma of every level: uint8 [256, 3].

    Args:
        colormap: the name of any matplotlib colour map.
        matrix: ``"bt709"``, ``"bt601"`` or ``"bt2020"``.
        full_range: 0 to 255 for luma and chroma, rather than 16 to 235 and 16 to 240.

    Raises:
        TypeError, ValueError: an unknown colour map or matrix.
    """
    check_colormap(colormap)
    if not isinstance(matrix, str) or matrix not in MATRICES:
        raise ValueError(f"matrix={matrix!r} is unknown; expected one of {', '.join(map(repr, MATRICES))}")
    return torch.from_numpy(_yuv_table(colormap, matrix, bool(full_range)).copy())


# A table that compiled code may take for a constant: what torch.compiler.assume_constant_result does, without importing
# the compiler, which takes seconds.
for _table in (rgb_colors, yuv_colors):
    _table._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=32)
def _yuv_table(colormap: str, matrix: str, full_range: bool) -> npt.NDArray[np.uint8]:
    weight_red, weight_blue = MATRICES[matrix]
    red, green, blue = _rgb_table(colormap).astype(np.float64).T
    luma = weight_red * red + (1 - weight_red - weight_blue) * green + weight_blue * blue  # 0 to 255
    chroma_blue = (blue - luma) / (2 * (1 - weight_blue))  # -127.5 to 127.5
    chroma_red = (red - luma) / (2 * (1 - weight_red))
    if full_range:
        planes = [luma, chroma_blue + 128, chroma_red + 128]
    else:
        planes = [16 + luma * (219 / 255), 128 + chroma_blue * (224 / 255), 128 + chroma_red * (224 / 255)]
    table: npt.NDArray[np.uint8] = np.stack(planes, axis=1).round().clip(0, 255).astype(np.uint8)
    return table


def rgb_of_yuv(planes: Tensor, matrix: str, full_range: bool) -> Tensor:
    """Red, green and blue, 0 to 255 where they can be shown, of luma, blue and red chroma: float32 [3, ...] both.

    Args:
        planes: levels, 0 to 255.
        matrix: ``"bt709"``, ``"bt601"`` or ``"bt2020"``.
        full_range: as for :func:`yuv_colors`.
    """
    weight_red, weight_blue = MATRICES[matrix]
    luma, blue_difference, red_difference = planes[0], planes[1] - 128, planes[2] - 128
    if not full_range:
        luma = (luma - 16) * (255 / 219)
        blue_difference, red_difference = blue_difference * (255 / 224), red_difference * (255 / 224)
    red = luma + 2 * (1 - weight_red) * red_difference
    blue = luma + 2 * (1 - weight_blue) * blue_difference
    green = (luma - weight_red * red - weight_blue * blue) / (1 - weight_red - weight_blue)
    return torch.stack([red, green, blue])
