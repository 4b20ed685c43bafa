"""An image at several scales, in windows of one size; and maps of those windows back on the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.functional import resize

from camfast.reference import interpolate


@dataclass(frozen=True)
class Window:
    """A square part of a scaled image."""

    top: int
    left: int
    side: int
    height: int
    """Of the scaled image."""
    width: int

    def cut(self, scaled: Tensor) -> Tensor:
        """From the scaled images [N, C, height, width]."""
        return scaled[:, :, self.top : self.top + self.side, self.left : self.left + self.side]

    def spread(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps [N, side, side] of it on the whole image, [N, H, W], zero elsewhere: interpolated linearly."""
        rows = _share(self.height, self.top, self.side, size[0]).to(maps)
        columns = _share(self.width, self.left, self.side, size[1]).to(maps)
        return rows @ maps @ columns.mT


def windows(images: Tensor, side: int, step: int, scales: Sequence[int]) -> Iterator[tuple[Window, Tensor]]:
    """Every window of every scale, and what it shows of the images [N, C, H, W].

    Args:
        side: of the windows.
        step: from one window to the next; the last one of a row or column ends with the image.
        scales: the lengths that the shorter side of the image is brought to, each at least ``side``.
    """
    for scale in scales:
        scaled = resize(images, [scale], antialias=True)
        height, width = scaled.shape[-2:]
        for top in _starts(height, step, side):
            for left in _starts(width, step, side):
                window = Window(top, left, side, height, width)
                yield window, window.cut(scaled)


def _starts(length: int, step: int, side: int) -> list[int]:
    return [*range(0, length - side, step), length - side]


def _share(length: int, begin: int, side: int, target: int) -> Tensor:
    """[target, side]: how much of each pixel of a window there is in each pixel of the image, along one axis."""
    return interpolate(torch.eye(length)[begin : begin + side], 1, target).mT
