"""From frames to what a model takes, and back: which part of the frame the model saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from camfast import placement
from camfast.placement import Placement, Region

Fit = Literal["crop", "squash", "pad"]
FITS: tuple[Fit, ...] = ("crop", "squash", "pad")


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
        return placement.squares(frames, placed, self.crop, list(self.mean), InterpolationMode(self.interpolation))

    def cut(self, resized: Tensor, placed: Placement) -> Tensor:
        """The square [N, crop, crop, 3] out of resized frames, or with bars around them."""
        return placement.cut(resized, placed, self.crop, list(self.mean))

    def normalized(self, squares: Tensor) -> Tensor:
        """Model input, float32 [N, 3, crop, crop], from :meth:`squares`."""
        return placement.normalized(squares, list(self.mean), list(self.std))

    def seen(self, height: int, width: int) -> Region:
        """The part of a frame of this size that the model sees, to the nearest pixel."""
        return placement.region_seen(self.placement(height, width), height, width, self.crop, self.fit)

    def without_bars(self, maps: Tensor, height: int, width: int) -> Tensor:
        """Of maps [N, h, w] of the square, the part that lies on a frame of this size: of :meth:`seen`."""
        return placement.without_bars(maps, self.placement(height, width), self.crop)

    def placement(self, height: int, width: int) -> Placement:
        """What is done with a frame of this size."""
        return placement.place(height, width, self.resize, self.crop, self.fit)
