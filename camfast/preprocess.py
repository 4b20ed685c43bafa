"""From frames to what a model takes, and back: which part of the frame the model saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

Fit = Literal["crop", "squash", "pad"]
FITS: tuple[Fit, ...] = ("crop", "squash", "pad")


_LONGEST = 8
"""Times the shorter side: no more of the longer one is resized before a crop to a square."""


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


@dataclass(frozen=True)
class Preprocessing:
    """How frames are made ready for a model: resized, cropped or padded, normalized."""

    resize: int
    """Length of the shorter side before the crop, in pixels."""
    crop: int
    """Side of the square that the model takes, in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, for values in [0, 1]."""
    interpolation: str = "bilinear"
    fit: Fit = "crop"
    """``"crop"``: the centre of the frame, undistorted. ``"squash"``: the whole frame, made square. ``"pad"``: the
    whole frame, undistorted, with bars of the mean colour."""

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"fit={self.fit!r} is unknown; expected one of {', '.join(map(repr, FITS))}")
        if self.crop > self.resize:
            raise ValueError(f"crop={self.crop} is larger than resize={self.resize}")

    def __call__(self, frames: Tensor) -> Tensor:
        """Model input, float32 [N, 3, crop, crop], from uint8 RGB frames [N, H, W, 3].

        Raises:
            TypeError: not a uint8 tensor.
            ValueError: another shape.
        """
        if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
            found = f"a {frames.dtype} tensor" if isinstance(frames, Tensor) else f"a {type(frames).__name__}"
            raise TypeError(
                f"frames is {found}; expected a uint8 tensor [N, H, W, 3]: torch.from_numpy(numpy.array(photo))[None]"
            )
        if frames.dim() != 4 or frames.shape[3] != 3:
            hint = "; add the batch dimension with frames[None]" if frames.dim() == 3 else ""
            raise ValueError(f"frames has shape {list(frames.shape)}; expected [N, H, W, 3]{hint}")
        return self.normalized(self.squares(frames))

    def squares(self, frames: Tensor) -> Tensor:
        """What of uint8 frames [N, H, W, 3] the model sees, uint8 [N, crop, crop, 3]."""
        placed = self.placement(frames.shape[1], frames.shape[2])
        window = placed.window
        images = frames.permute(0, 3, 1, 2)
        images = images[:, :, window.top : window.top + window.height, window.left : window.left + window.width]
        images = F.resize(images, [placed.height, placed.width], InterpolationMode(self.interpolation), antialias=True)
        return self.cut(images.permute(0, 2, 3, 1), placed)

    def cut(self, resized: Tensor, placed: Placement) -> Tensor:
        """The square [N, crop, crop, 3] out of resized frames, or with bars around them."""
        if min(placed.height, placed.width) >= self.crop:
            return resized[:, placed.top : placed.top + self.crop, placed.left : placed.left + self.crop]
        bars = (torch.tensor(self.mean) * 255).round().to(resized)
        square = bars.expand(len(resized), self.crop, self.crop, len(self.mean)).clone()
        square[:, -placed.top : placed.height - placed.top, -placed.left : placed.width - placed.left] = resized
        return square

    def normalized(self, squares: Tensor) -> Tensor:
        """Model input, float32 [N, 3, crop, crop], from :meth:`squares`."""
        values = F.to_dtype(squares.permute(0, 3, 1, 2), torch.float32, scale=True)
        normalized: Tensor = F.normalize(values, list(self.mean), list(self.std), inplace=True)
        return normalized

    def seen(self, height: int, width: int) -> Region:
        """The part of a frame of this size that the model sees, to the nearest pixel."""
        window, resized_height, resized_width, top, left = self.placement(height, width)
        if self.fit != "crop":
            return Region(0, 0, height, width)
        rows, columns = window.height / resized_height, window.width / resized_width
        first_row, last_row = round(top * rows), round((top + self.crop) * rows)
        first_column, last_column = round(left * columns), round((left + self.crop) * columns)
        return Region(
            window.top + first_row,
            window.left + first_column,
            max(last_row - first_row, 1),
            max(last_column - first_column, 1),
        )

    def without_bars(self, maps: Tensor, height: int, width: int) -> Tensor:
        """Of maps [N, h, w] of the square, the part that lies on a frame of this size: of :meth:`seen`.

        Where there are bars, maps are first enlarged to the pixels of the square, as the frame's edge lies within one
        of theirs.
        """
        placed = self.placement(height, width)
        if min(placed.height, placed.width) >= self.crop:
            return maps
        pixels = torch.nn.functional.interpolate(maps[:, None], (self.crop, self.crop), mode="bilinear")[:, 0]
        return pixels[:, -placed.top : placed.height - placed.top, -placed.left : placed.width - placed.left]

    def placement(self, height: int, width: int) -> Placement:
        """What is done with a frame of this size."""
        whole = Region(0, 0, height, width)
        if self.fit == "squash":
            return Placement(whole, self.crop, self.crop, 0, 0)
        if self.fit == "pad":
            longer = max(height, width)
            rows, columns = (max(round(self.crop * side / longer), 1) for side in (height, width))
            return Placement(whole, rows, columns, -((self.crop - rows) // 2), -((self.crop - columns) // 2))
        window = self._window(height, width)
        # The longer side is rounded down, as torchvision does.
        if window.height <= window.width:
            rows, columns = self.resize, max(int(self.resize * window.width / window.height), self.resize)
        else:
            rows, columns = max(int(self.resize * window.height / window.width), self.resize), self.resize
        return Placement(window, rows, columns, round((rows - self.crop) / 2), round((columns - self.crop) / 2))

    def _window(self, height: int, width: int) -> Region:
        """What of a frame is resized: all of it, or the middle of one so long that most would be cut off again."""
        longest = _LONGEST * min(height, width)
        if max(height, width) <= longest:
            return Region(0, 0, height, width)
        kept_height, kept_width = min(height, longest), min(width, longest)
        return Region((height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width)
