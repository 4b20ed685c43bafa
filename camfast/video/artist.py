"""Heat, layout and labels, drawn into the planes of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from camfast.fonts import escaped, file_for, lacking
from camfast.placement import Region
from camfast.video.eye import Eye
from camfast.video.moment import Moment
from camfast.video.planes import FULL, Canvas, blend_, planes
from camfast.video.surface import AnyPicture

VideoLayout = Literal["overlay", "side-by-side", "heatmap"]
VIDEO_LAYOUTS: tuple[VideoLayout, ...] = ("overlay", "side-by-side", "heatmap")

_LABEL_OPACITY = 0.6
_LABEL_SHARE = 1 / 24
"""Height of a line of a label, in heights of the frame."""
_SMALLEST_LINE = 10


class Artist:
    """Draws explained frames.

    Args:
        canvas, eye: for frames of the video's size and format.
        layout: the heat over the frame; the frame, and beside it the heat over the frame; the heat alone, on black.
        label: whether to write the classes and how probable they are.
    """

    def __init__(
        self,
        canvas: Canvas,
        eye: Eye,
        *,
        alpha: float,
        colormap: str,
        layout: VideoLayout = "overlay",
        label: bool = False,
    ) -> None:
        self._canvas = canvas
        self._eye = eye
        self._alpha = 1.0 if layout == "heatmap" else alpha
        self._colors = canvas.colors(colormap)
        self._layout = layout
        self._label = label
        self.height, self.width = canvas.height, canvas.width
        """The size of what is drawn."""
        self._left = self._right = Region(0, 0, canvas.height, canvas.width)
        if layout == "side-by-side":
            (self.height, self.width), self._left, self._right = eye.beside()

    def __call__(self, moment: Moment) -> av.VideoFrame:
        """The picture of a moment, drawn over the one in the moment where no other has that."""
        if self._layout == "heatmap":
            picture = self._canvas.blank()
        else:
            picture = self._canvas.writable(moment.frame.picture, keep=moment.frame.shown_again)
        if self._layout == "side-by-side":
            picture = self._beside(picture)
        region = _moved(self._eye.region, self._right)
        if moment.heat is not None and moment.heat.finite:
            blend_(picture, moment.heat.map, self._colors, self._alpha, region, moment.heat.ranges)
        if self._label and moment.classes:
            self._write(picture, [str(score) for score in moment.classes])
        return self._canvas.finished(picture)

    def _beside(self, picture: AnyPicture) -> AnyPicture:
        both = self._canvas.blank(self.height, self.width)
        for large, own in zip(planes(both), planes(picture), strict=True):
            height, width = own.shape
            for half in (self._left, self._right):  # which begin at 0, or where the other ends
                _part(large, Region(height if half.top else 0, width if half.left else 0, height, width)).copy_(own)
        return both

    def _write(self, picture: AnyPicture, lines: Sequence[str]) -> None:
        height, width = self._eye.upright_size
        text = _text(tuple(lines), max(round(height * _LABEL_SHARE), _SMALLEST_LINE), height, width)
        rows, columns = text.shape
        box = _moved(self._eye.stored(Region(0, 0, rows, columns)), self._left)
        white, black = (255, 0) if self._canvas.range == FULL else (235, 16)
        luma, *chroma = planes(picture)

        def level(value: int) -> Tensor:
            return torch.tensor(float(value), device=luma.device)

        strength = torch.from_numpy(self._eye.turned_back(text)).to(luma.device).float() / 255
        window = _part(luma, box)
        dark = window.float().lerp(level(black), _LABEL_OPACITY)
        window.copy_(dark.lerp(level(white), strength).round())
        for plane in chroma:
            # Half of the box in 4:2:0, whose sides are even there.
            scale = luma.shape[0] // plane.shape[0] if plane.shape != luma.shape else 1
            part = _part(plane, Region(*(value // scale for value in box)))
            part.copy_(part.float().lerp(level(128), _LABEL_OPACITY).round())


def _moved(region: Region, half: Region) -> Region:
    """A rectangle of a frame, on a picture of which the frame is a part."""
    return region._replace(top=region.top + half.top, left=region.left + half.left)


def _part(plane: Tensor, region: Region) -> Tensor:
    return plane[region.top : region.top + region.height, region.left : region.left + region.width]


@lru_cache(maxsize=256)
def _text(lines: tuple[str, ...], size: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Lines of text, white on black, uint8 [h, w] with even sides, cut at the frame's."""
    font, written = _font(lines, size)
    boxes = [font.getbbox(line) for line in written]
    margin = size // 3
    step = round(1.3 * size)
    columns = min(round(max(box[2] for box in boxes)) + 2 * margin, width)
    rows = min(step * len(lines) + margin, height)
    image = Image.new("L", (max(columns // 2 * 2, 1), max(rows // 2 * 2, 1)))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(written):
        draw.text((margin, margin // 2 + number * step), line, fill=255, font=font)
    return np.array(image)


def _font(lines: Sequence[str], size: int) -> tuple[Any, list[str]]:
    """A font, and the lines as it can write them."""
    if all(line.isascii() and line.isprintable() for line in lines):
        return ImageFont.load_default(size), list(lines)
    path = file_for("".join(lines))
    return ImageFont.truetype(path, size), [escaped(line, lacking(path, line)) for line in lines]
