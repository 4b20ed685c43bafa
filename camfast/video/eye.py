"""What the model sees of each frame, and where on the frame its map belongs."""

from __future__ import annotations

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from camfast.placement import Region
from camfast.preprocess import Preprocessing
from camfast.video.planes import resized_rgb, rgb

_INTERPOLATIONS = {"bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC}


class Eye:
    """Pictures of one size and rotation, as a model takes them: upright, resized by swscale from their own planes.

    Args:
        preprocess: the model's.
        picture: the first of them; others are seen as if they had its size.
    """

    def __init__(self, preprocess: Preprocessing, picture: av.VideoFrame) -> None:
        self._preprocess = preprocess
        self._turns = round((picture.rotation or 0) / 90) % 4
        """Quarter turns counterclockwise that make the stored picture upright."""
        stored = picture.height, picture.width
        self._upright = stored if self._turns % 2 == 0 else stored[::-1]
        self._placed = preprocess.placement(*self._upright)
        self._whole = self._placed.window == (0, 0, *self._upright)
        self._interpolation = _INTERPOLATIONS.get(preprocess.interpolation, Interpolation.BILINEAR)
        self._reformatter = VideoReformatter()
        self.region = self.stored(preprocess.seen(*self._upright))
        """The part of the stored picture that the model sees."""

    def __call__(self, picture: av.VideoFrame) -> npt.NDArray[np.uint8]:
        """What the model sees: uint8 RGB [crop, crop, 3]."""
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
        return self._preprocess.without_bars(maps, *self._upright).rot90(-self._turns, (1, 2))

    def stored(self, region: Region) -> Region:
        """A rectangle of the upright picture, on the stored one."""
        height, width = self._upright
        for _ in range(self._turns):  # back by a quarter turn, clockwise
            region = Region(region.left, height - region.top - region.height, region.width, region.height)
            height, width = width, height
        return region

    def turned_back(self, upright: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Something drawn for the upright picture [h, w], as it lies on the stored one."""
        return np.ascontiguousarray(np.rot90(upright, -self._turns))

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) as people see it."""
        return self._upright[0], self._upright[1]

    def _turned(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.rot90(pixels, self._turns).copy())
