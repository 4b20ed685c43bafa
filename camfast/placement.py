"""Which part of a frame a model sees, and the pixels of it.

Functions of numbers and tensors, which TorchScript compiles too: an exported explainer sees what
:class:`camfast.preprocess.Preprocessing` shows a model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


class Region(NamedTuple):
    """A rectangle of a frame, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


class Placement(NamedTuple):
    """How a frame becomes the square that a model takes."""

    window: Region
    """The part of the frame that is resized."""
    height: int
    width: int
    """To which size."""
    top: int
    left: int
    """Where in that the square begins; negative where it reaches beyond, by as much on the other side."""


def place(height: int, width: int, resize: int, crop: int, fit: str) -> Placement:
    """What is done with a frame of this size; the other arguments are those of
    :class:`camfast.preprocess.Preprocessing`."""
    whole = Region(0, 0, height, width)
    if fit == "squash":
        return Placement(whole, crop, crop, 0, 0)
    if fit == "pad":
        longer = max(height, width)
        rows = max(_rounded(crop * height / longer), 1)
        columns = max(_rounded(crop * width / longer), 1)
        return Placement(whole, rows, columns, -((crop - rows) // 2), -((crop - columns) // 2))
    window = _window(height, width)
    # The longer side is rounded down, as torchvision does.
    if window.height <= window.width:
        rows, columns = resize, max(int(resize * window.width / window.height), resize)
    else:
        rows, columns = max(int(resize * window.height / window.width), resize), resize
    return Placement(window, rows, columns, _rounded((rows - crop) / 2), _rounded((columns - crop) / 2))


def _window(height: int, width: int) -> Region:
    """What of a frame is resized: all of it, or the middle of one so long that most would be cut off again."""
    longest = 8 * min(height, width)
    if max(height, width) <= longest:
        return Region(0, 0, height, width)
    kept_height, kept_width = min(height, longest), min(width, longest)
    return Region((height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width)


def _rounded(value: float) -> int:
    return int(round(value))  # noqa: RUF046, as TorchScript rounds to a float


def region_seen(placed: Placement, height: int, width: int, crop: int, fit: str) -> Region:
    """The part of a frame of this size that the model sees, to the nearest pixel."""
    if fit != "crop":
        return Region(0, 0, height, width)
    window = placed.window
    rows, columns = window.height / placed.height, window.width / placed.width
    first_row, last_row = _rounded(placed.top * rows), _rounded((placed.top + crop) * rows)
    first_column, last_column = _rounded(placed.left * columns), _rounded((placed.left + crop) * columns)
    return Region(
        window.top + first_row,
        window.left + first_column,
        max(last_row - first_row, 1),
        max(last_column - first_column, 1),
    )


def squares(
    frames: Tensor, placed: Placement, crop: int, mean: list[float], interpolation: InterpolationMode
) -> Tensor:
    """What of uint8 frames [N, H, W, 3] the model sees, uint8 [N, crop, crop, 3]."""
    window = placed.window
    images = frames.permute(0, 3, 1, 2)
    images = images[:, :, window.top : window.top + window.height, window.left : window.left + window.width]
    images = F.resize(images, [placed.height, placed.width], interpolation, antialias=True)
    return cut(images.permute(0, 2, 3, 1), placed, crop, mean)


def cut(resized: Tensor, placed: Placement, crop: int, mean: list[float]) -> Tensor:
    """The square [N, crop, crop, 3] out of resized frames, or with bars of the mean colour around them."""
    if min(placed.height, placed.width) >= crop:
        return resized[:, placed.top : placed.top + crop, placed.left : placed.left + crop]
    bars = (torch.tensor(mean) * 255).round().to(resized)
    square = bars.expand(resized.shape[0], crop, crop, len(mean)).clone()
    square[:, -placed.top : placed.height - placed.top, -placed.left : placed.width - placed.left] = resized
    return square


def normalized(squares: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Model input, float32 [N, 3, crop, crop], from :func:`squares`."""
    values = F.to_dtype(squares.permute(0, 3, 1, 2), torch.float32, scale=True)
    result: Tensor = F.normalize(values, mean, std, inplace=True)
    return result


def without_bars(maps: Tensor, placed: Placement, crop: int) -> Tensor:
    """Of maps [N, h, w] of the square, the part that lies on the frame: of :func:`region_seen`.

    Where there are bars, maps are first enlarged to the pixels of the square, as the frame's edge lies within one of
    theirs.
    """
    if min(placed.height, placed.width) >= crop:
        return maps
    pixels = torch.nn.functional.interpolate(maps[:, None], (crop, crop), mode="bilinear")[:, 0]
    return pixels[:, -placed.top : placed.height - placed.top, -placed.left : placed.width - placed.left]
