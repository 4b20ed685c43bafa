"""How a stored picture is to be turned before people, and models, see it upright."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from torch import Tensor

from camfast.placement import Region

_DISPLAY_MATRIX = "DISPLAYMATRIX"


def display_matrix(picture: av.VideoFrame) -> tuple[int, ...] | None:
    """How players are to turn a picture, nine numbers as FFmpeg has them; None where the file does not say."""
    matrix: Any = picture.side_data.get(_DISPLAY_MATRIX)
    return None if matrix is None else tuple(memoryview(bytes(matrix)).cast("i"))


@dataclass(frozen=True)
class Orientation:
    """What makes a stored picture upright: a mirror first, where there is one, and then quarter turns."""

    turns: int = 0
    """Counterclockwise, 0 to 3; an angle between is taken for the nearest."""
    mirrored: bool = False
    """Whether left and right of the stored picture change places."""

    @classmethod
    def of(cls, picture: av.VideoFrame) -> Orientation:
        """That of a picture, by its display matrix."""
        matrix = display_matrix(picture)
        if matrix is None:
            return cls()
        across, down, across_of_down, down_of_down = (float(matrix[i]) for i in (0, 1, 3, 4))
        mirrored = across * down_of_down < down * across_of_down
        if mirrored:
            across, down = -across, -down
        # The matrix turns clockwise, in coordinates whose second one goes down.
        return cls(round(-np.degrees(np.arctan2(down, across)) / 90) % 4, bool(mirrored))

    def upright_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the upright picture, from those of the stored one."""
        return (height, width) if self.turns % 2 == 0 else (width, height)

    def upright(self, stored: Tensor) -> Tensor:
        """Something stored [C, h, w], upright."""
        seen = stored.flip(2) if self.mirrored else stored
        return seen.rot90(self.turns, (1, 2))

    def stored(self, upright: Tensor) -> Tensor:
        """Something upright [N, h, w], as it is stored."""
        turned = upright.rot90(-self.turns, (1, 2))
        return turned.flip(2) if self.mirrored else turned

    def stored_region(self, region: Region, height: int, width: int) -> Region:
        """A rectangle of the upright picture, whose size is given, on the stored one."""
        for _ in range(self.turns):  # back by a quarter turn, clockwise
            region = Region(region.left, height - region.top - region.height, region.width, region.height)
            height, width = width, height
        return region._replace(left=width - region.left - region.width) if self.mirrored else region

    def stored_pixels(self, upright: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Something drawn for the upright picture [h, w], as it lies on the stored one."""
        turned = np.rot90(upright, -self.turns)
        return np.ascontiguousarray(np.fliplr(turned) if self.mirrored else turned)
