"""What the model sees of each frame, and where on the frame its map belongs."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from camfast.preprocess import Preprocessing, Region
from camfast.video.moment import Seen
from camfast.video.planes import orientation_of, resized_rgb, rgb

_INTERPOLATIONS = {"bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC}


class Eye:
    """Pictures of one size and orientation, as a model takes them: upright, resized by swscale from their own planes.

    Args:
        preprocess: the model's.
        picture: the first of them; others are seen as if they had its size.
    """

    def __init__(self, preprocess: Preprocessing, picture: av.VideoFrame) -> None:
        self._preprocess = preprocess
        self._mirrored, self._turns = orientation_of(picture)
        """What makes the stored picture upright: a mirror, left to right, then quarter turns counterclockwise."""
        stored = picture.height, picture.width
        self._upright = stored if self._turns % 2 == 0 else stored[::-1]
        self._placed = preprocess.placement(*self._upright)
        self._whole = self._placed.window == (0, 0, *self._upright)
        self._interpolation = _INTERPOLATIONS.get(preprocess.interpolation, Interpolation.BILINEAR)
        self._reformatter = VideoReformatter()
        self.region = self.stored(preprocess.seen(*self._upright))
        """The part of the stored picture that the model sees."""

    def __call__(self, picture: Any) -> Seen:
        """What the model sees of a picture: uint8 RGB [crop, crop, 3]."""
        if self._whole:
            height, width = self._placed.height, self._placed.width
            if self._turns % 2:
                height, width = width, height
            small = self._turned(resized_rgb(picture, height, width, self._interpolation, self._reformatter))
            return self._preprocess.cut(small[None], self._placed)[0].numpy()
        pixels = self._turned(rgb(picture, self._reformatter))
        return self._preprocess.squares(pixels[None])[0].numpy()

    def map_on_region(self, maps: Tensor) -> Tensor:
        """Maps [N, h, w] of what the model sees, as they lie on :attr:`region`."""
        turned = self._preprocess.without_bars(maps, *self._upright).rot90(-self._turns, (1, 2))
        return turned.flip(2) if self._mirrored else turned

    def stored(self, region: Region) -> Region:
        """A rectangle of the upright picture, on the stored one."""
        height, width = self._upright
        for _ in range(self._turns):  # back by a quarter turn, clockwise
            region = Region(region.left, height - region.top - region.height, region.width, region.height)
            height, width = width, height
        return region._replace(left=width - region.left - region.width) if self._mirrored else region

    def turned_back(self, upright: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Something drawn for the upright picture [h, w], as it lies on the stored one."""
        turned = np.rot90(upright, -self._turns)
        return np.ascontiguousarray(np.fliplr(turned) if self._mirrored else turned)

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) as people see it."""
        return self._upright[0], self._upright[1]

    def _turned(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.rot90(np.fliplr(pixels) if self._mirrored else pixels, self._turns).copy())
