"""From frames to what a model takes, and back: which part of the frame the model saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

Fit = Literal["crop", "squash"]
FITS: tuple[Fit, ...] = ("crop", "squash")


_LONGEST = 8
"""Times the shorter side: no more of the longer one is resized before a crop to a square."""


class Region(NamedTuple):
    """A rectangle of a frame, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Preprocessing:
    """How frames are made ready for a model: resized, cropped, normalized."""

    resize: int
    """Length of the shorter side before the crop, in pixels."""
    crop: int
    """Side of the square that the model takes, in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, for values in [0, 1]."""
    interpolation: str = "bilinear"
    fit: Fit = "crop"
    """``"crop"``: the centre of the frame, undistorted. ``"squash"``: the whole frame, made square."""

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"fit={self.fit!r} is unknown; expected one of {', '.join(map(repr, FITS))}")
        if self.crop > self.resize:
            raise ValueError(f"crop={self.crop} is larger than resize={self.resize}")

    def __call__(self, frames: Tensor) -> Tensor:
        """Model input, float32 [N, 3, crop, crop], from uint8 frames [N, H, W, 3]."""
        window = self._window(frames.shape[1], frames.shape[2])
        images = frames.permute(0, 3, 1, 2)
        images = images[:, :, window.top : window.top + window.height, window.left : window.left + window.width]
        height, width = self._resized(window.height, window.width)
        images = F.resize(images, [height, width], InterpolationMode(self.interpolation), antialias=True)
        top, left = self._corner(height, width)
        images = images[:, :, top : top + self.crop, left : left + self.crop]
        values = F.to_dtype(images, torch.float32, scale=True)
        normalized: Tensor = F.normalize(values, list(self.mean), list(self.std))
        return normalized

    def seen(self, height: int, width: int) -> Region:
        """The part of a frame of this size that the model sees, to the nearest pixel."""
        window = self._window(height, width)
        resized_height, resized_width = self._resized(window.height, window.width)
        top, left = self._corner(resized_height, resized_width)
        rows, columns = window.height / resized_height, window.width / resized_width
        first_row, last_row = round(top * rows), round((top + self.crop) * rows)
        first_column, last_column = round(left * columns), round((left + self.crop) * columns)
        return Region(
            window.top + first_row,
            window.left + first_column,
            max(last_row - first_row, 1),
            max(last_column - first_column, 1),
        )

    def _window(self, height: int, width: int) -> Region:
        """What of a frame is resized: all of it, or the middle of one so long that most would be cut off again."""
        longest = _LONGEST * min(height, width)
        if self.fit == "squash" or max(height, width) <= longest:
            return Region(0, 0, height, width)
        kept_height, kept_width = min(height, longest), min(width, longest)
        return Region((height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.fit == "squash":
            return self.crop, self.crop
        # The longer side is rounded down, as torchvision does.
        if height <= width:
            return self.resize, max(int(self.resize * width / height), self.resize)
        return max(int(self.resize * height / width), self.resize), self.resize

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        return round((height - self.crop) / 2), round((width - self.crop) / 2)
