"""Many small maps in one Axes: a mosaic, each with its label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_WIDEST, _NARROWEST = 20.0, 4.0
"""Of a figure, in inches."""
_FEWEST = 24
"""Pixels of a map's longer side."""
_TILE, _LONE = 1.1, 2.2
"""Of a map at most, and of one alone, in inches."""
_LETTER = 0.085
"""Of a title, in inches."""
_EDGE, _HEAD, _SCALE = 0.1, 0.3, 0.9
"""Around all maps, over them for a title, and beside them for a scale of colours, in inches."""


@dataclass(frozen=True)
class Mosaic:
    """Where maps of one size lie beside each other; a label stands over each."""

    count: int
    height: int
    width: int
    """Of one, drawn with pixels ``zoom`` times as large, so that gaps can be small."""
    columns: int
    zoom: int

    @classmethod
    def of(cls, count: int, height: int, width: int, columns: int | None = None) -> Mosaic:
        """In so many columns, or about as wide as high."""
        zoom = max(math.ceil(_FEWEST / max(height, width)), 1)
        height, width = zoom * height, zoom * width
        square = math.ceil(math.sqrt(count * (height + _gap(height)) / (width + _gap(width))))
        return cls(count, height, width, min(columns or max(square, 1), count), zoom)

    @property
    def rows(self) -> int:
        return -(-self.count // self.columns)

    @property
    def step(self) -> tuple[int, int]:
        """From one map to the next below it, and beside it, in pixels of maps."""
        return self.height + _gap(self.height), self.width + _gap(self.width, 0.06)

    def place(self, index: int) -> tuple[int, int]:
        """Top and left of a map."""
        row, column = divmod(index, self.columns)
        down, right = self.step
        return row * down + _gap(self.height), column * right

    def joined(self, maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One picture of maps [n, h, w] or [n, h, w, 3], with NaN (or 1, in RGB) between them."""
        down, right = self.step
        size = self.rows * down, self.columns * right - _gap(self.width, 0.06)
        picture = np.full((*size, *maps.shape[3:]), np.nan if maps.ndim == 3 else 1.0, maps.dtype)
        for index, values in enumerate(maps.repeat(self.zoom, 1).repeat(self.zoom, 2)):
            top, left = self.place(index)
            picture[top : top + self.height, left : left + self.width] = values
        return picture

    def axes(self, title: str = "", scale: bool = False) -> Axes:
        """Those of a figure that it fits into, with a title, and with or without a scale of colours beside it."""
        down, right = self.step
        tile = min(max(_TILE, _LONE / self.columns), _WIDEST / self.columns)
        wide, tall = (
            max(self.columns * tile, _NARROWEST, _LETTER * len(title)),
            max(min(self.rows * tile * down / right, 2 * _WIDEST), 1.0),
        )
        width, height = wide + 2 * _EDGE + (_SCALE if scale else 0), tall + 2 * _EDGE + _HEAD
        # No layout engine: it would draw a thousand labels twice.
        rectangle = (_EDGE / width, _EDGE / height, wide / width, tall / height)
        return Figure(figsize=(width, height)).add_axes(rectangle)

    def draw(self, axis: Axes, maps: npt.NDArray[Any], labels: Sequence[str], scale: bool = False, **how: Any) -> None:
        """Maps with labels on the Axes, and a scale of their colours if it is wanted."""
        picture = self.joined(maps)
        shown = axis.imshow(picture, interpolation="nearest", **how)
        axis.set_axis_off()
        if scale:
            # An inset takes no room from Axes that are given.
            inches = axis.get_window_extent().width / axis.figure.dpi
            beside = axis.inset_axes((1 + 0.12 / inches, 0.15, 0.16 / inches, 0.7))
            axis.figure.colorbar(shown, cax=beside).ax.tick_params(labelsize=8)
        size = _label_size(axis, self.columns, self.rows)
        for index, label in enumerate(labels):
            top, left = self.place(index)
            text = axis.text(left - 0.5, top - 0.5, label, fontsize=size, va="bottom", ha="left", clip_on=True)
            text.set_in_layout(False)  # it lies within the Axes, and a thousand of them would take seconds


def _gap(side: int, share: float = 0.2) -> int:
    """Room beside a map, in its pixels."""
    return max(round(side * share), 1)


def _label_size(axis: Axes, columns: int, rows: int) -> float:
    """In points, so that a label takes no more than its room."""
    extent = axis.get_window_extent()
    pixels = min(extent.width / columns, extent.height / rows)
    return float(np.clip(0.13 * 72 * pixels / axis.figure.dpi, 2.5, 9.0))
