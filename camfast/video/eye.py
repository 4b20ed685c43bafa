"""What the model sees of each frame, and where on the frame its map belongs."""

from __future__ import annotations

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from camfast.placement import Region
from camfast.preprocess import Preprocessing
from camfast.video.closeup import CloseUp
from camfast.video.orientation import Orientation
from camfast.video.planes import resized_rgb
from camfast.video.surface import AnyPicture

_INTERPOLATIONS = {"bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC}


class Eye:
    """Pictures of one size and orientation, as a model takes them: upright, resized by swscale from their own planes.

    Args:
        preprocess: the model's.
        picture: the first of them; others are seen as if they had its size.
    """

    def __init__(self, preprocess: Preprocessing, picture: av.VideoFrame) -> None:
        self._preprocess = preprocess
        self._orientation = Orientation.of(picture)
        self._stored = picture.height, picture.width
        self._upright = self._orientation.upright_size(*self._stored)
        self._placed = preprocess.placement(*self._upright)
        self._whole = self._placed.window == (0, 0, *self._upright)
        self._interpolation = _INTERPOLATIONS.get(preprocess.interpolation, Interpolation.BILINEAR)
        self._reformatter = VideoReformatter()
        self._closeup = self._close_up(picture) if self._whole else None
        self.region = self.stored(preprocess.seen(*self._upright))
        """The part of the stored picture that the model sees."""

    def __call__(self, picture: AnyPicture) -> Tensor:
        """What the model sees: uint8 RGB [3, crop, crop]."""
        if self._closeup is not None and isinstance(picture, av.VideoFrame) and self._closeup.takes(picture):
            small = self._closeup(picture, self._interpolation, self._reformatter)
            return self._orientation.upright(small).contiguous()
        if self._whole:
            small = self._rgb(picture, *self._orientation.upright_size(self._placed.height, self._placed.width))
            squares = self._preprocess.cut(self._orientation.upright(small).permute(1, 2, 0)[None], self._placed)
        else:
            pixels = self._rgb(picture, *self._stored)
            squares = self._preprocess.squares(self._orientation.upright(pixels).permute(1, 2, 0)[None])
        return squares[0].permute(2, 0, 1).contiguous()

    def _close_up(self, picture: av.VideoFrame) -> CloseUp | None:
        """Of the resized picture, the square: with bars around it, there is nothing to be cut off."""
        placed, side = self._placed, self._preprocess.crop
        if min(placed.height, placed.width) < side:
            return None
        square = Region(placed.top, placed.left, side, side)
        wanted = self._orientation.stored_region(square, placed.height, placed.width)
        return CloseUp(picture, *self._orientation.upright_size(placed.height, placed.width), wanted)

    def _rgb(self, picture: AnyPicture, height: int, width: int) -> Tensor:
        """The stored picture in another size, uint8 RGB [3, height, width]."""
        assert isinstance(picture, av.VideoFrame)
        return resized_rgb(picture, height, width, self._interpolation, self._reformatter)

    def map_on_region(self, maps: Tensor) -> Tensor:
        """Maps [N, h, w] of what the model sees, as they lie on :attr:`region`."""
        return self._orientation.stored(self._preprocess.without_bars(maps, *self._upright))

    def stored(self, region: Region) -> Region:
        """A rectangle of the upright picture, on the stored one."""
        return self._orientation.stored_region(region, *self._upright)

    def beside(self) -> tuple[tuple[int, int], Region, Region]:
        """Of two upright pictures side by side, stored: (height, width), and where the left and the right one lie."""
        height, width = self._upright
        size = self._orientation.upright_size(height, 2 * width)
        left, right = (Region(0, at, height, width) for at in (0, width))
        return (
            size,
            self._orientation.stored_region(left, height, 2 * width),
            self._orientation.stored_region(right, height, 2 * width),
        )

    def turned_back(self, upright: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Something drawn for the upright picture [h, w], as it lies on the stored one."""
        return self._orientation.stored_pixels(upright)

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) as people see it."""
        return self._upright
