"""Decoded pictures as planes that can be drawn on: 8-bit YUV 4:2:0, or 4:4:4 where a side is odd."""

from __future__ import annotations

import ctypes
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

from camfast import ops
from camfast.colors import yuv_colors
from camfast.placement import Region

BT709, BT470BG, SMPTE170M, BT2020 = 1, 5, 6, 9
"""Values of AVColorSpace, as in ISO/IEC 23091-2."""
LIMITED, FULL = int(ColorRange.MPEG), int(ColorRange.JPEG)

_FULL_RANGE_FORMATS = ("yuvj420p", "yuvj422p", "yuvj444p", "yuvj440p", "yuvj411p")
_HIGH = 720
"""Lines from which untagged video is taken for BT.709, as players do."""


def matrix_of(picture: av.VideoFrame) -> int:
    """The AVColorSpace of a picture: its tag, or what players assume where it has none."""
    if picture.colorspace in (BT709, BT470BG, SMPTE170M, BT2020):
        return int(picture.colorspace)
    return BT709 if picture.height >= _HIGH or _is_rgb(picture) else SMPTE170M


def range_of(picture: av.VideoFrame) -> int:
    """Whether levels go from 0 to 255 or from 16 to 235: FULL or LIMITED."""
    full = picture.color_range == FULL or picture.format.name in _FULL_RANGE_FORMATS or _is_rgb(picture)
    return FULL if full else LIMITED


def _is_rgb(picture: av.VideoFrame) -> bool:
    return bool(picture.format.is_rgb) or picture.format.name == "pal8"


def _losses(picture: av.VideoFrame) -> list[str]:
    found = []
    bits = max(component.bits for component in picture.format.components)
    if bits > 8:
        found.append(f"{bits}-bit samples were rounded to 8 bits")
    if any(component.is_alpha for component in picture.format.components):
        found.append("transparency was left out")
    if picture.interlaced_frame:
        found.append("interlaced frames were taken as whole pictures")
    return found


def _swscale(space: int) -> Colorspace:
    return {BT709: Colorspace.ITU709, BT2020: Colorspace.BT2020}.get(space, Colorspace.ITU601)


class Canvas:
    """Makes pictures of a video's own size and pixel format writable, one after the other.

    Args:
        first: the first picture; others are brought to its size.
    """

    def __init__(self, first: av.VideoFrame) -> None:
        self.width, self.height = first.width, first.height
        self.space = matrix_of(first)
        self.range = LIMITED if _is_rgb(first) else range_of(first)
        # What the file says of itself goes on, also where it says nothing; RGB becomes what players assume.
        self.space_tag = BT709 if _is_rgb(first) else int(first.colorspace)
        self.range_tag = self.range if _is_rgb(first) or self.range == FULL else int(first.color_range)
        self.format = "yuv420p" if self.width % 2 == 0 and self.height % 2 == 0 else "yuv444p"
        self.losses = _losses(first)
        """What pictures of this format do not keep of the video's."""
        self._reformatter = VideoReformatter()

    def writable(self, picture: av.VideoFrame, keep: bool = False) -> av.VideoFrame:
        """The picture in the format of the canvas, in memory that no decoder has. Of 8-bit 4:2:0 every sample stays.

        Without ``keep`` it may be the picture itself.
        """
        if (picture.format.name, picture.width, picture.height) == (self.format, self.width, self.height):
            if self.format == "yuv420p" and not keep:
                picture.make_writable()
                return picture
            copy = av.VideoFrame(self.width, self.height, self.format)  # whose planes lie evenly, unlike a decoder's
            for own, other in zip(planes(copy), planes(picture), strict=True):
                own.copy_(other)
            return copy
        return self._reformatter.reformat(
            picture,
            width=self.width,
            height=self.height,
            format=self.format,
            src_colorspace=_swscale(matrix_of(picture)),
            dst_colorspace=_swscale(self.space),
            src_color_range=ColorRange(range_of(picture)),
            dst_color_range=ColorRange(self.range),
            threads=1,
        )

    def blank(self, width: int | None = None) -> av.VideoFrame:
        """A black picture."""
        picture = av.VideoFrame(width or self.width, self.height, self.format)
        for plane, level in zip(planes(picture), (0 if self.range == FULL else 16, 128, 128), strict=True):
            plane.fill_(level)
        return picture

    def colors(self, colormap: str) -> Tensor:
        """The levels of a colour map in the video's own colours: uint8 [256, 3]."""
        matrix = {BT709: "bt709", BT2020: "bt2020"}.get(self.space, "bt601")
        return yuv_colors(colormap, matrix, self.range == FULL)


def rgb(picture: av.VideoFrame, reformatter: VideoReformatter | None = None) -> npt.NDArray[np.uint8]:
    """A picture as uint8 RGB [H, W, 3]."""
    return resized_rgb(picture, picture.height, picture.width, None, reformatter or VideoReformatter())


def resized_rgb(
    picture: av.VideoFrame, height: int, width: int, interpolation: Interpolation | None, reformatter: VideoReformatter
) -> npt.NDArray[np.uint8]:
    """A picture as uint8 RGB of another size, straight from its planes: no RGB picture of its own size is made."""
    small = reformatter.reformat(
        picture,
        width=width,
        height=height,
        format="rgb24",
        interpolation=interpolation,
        src_colorspace=_swscale(matrix_of(picture)),
        src_color_range=ColorRange(range_of(picture)),
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    plane: Any = small.planes[0]
    lines: npt.NDArray[np.uint8] = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
    return lines[:, : 3 * width].reshape(height, width, 3)


def planes(picture: av.VideoFrame) -> list[Tensor]:
    """The planes of a writable picture of a canvas, uint8 [height, width] each, in its own memory."""
    found = []
    for plane in picture.planes:
        lines = torch.frombuffer(plane, dtype=torch.uint8).view(plane.height, plane.line_size)
        found.append(lines[:, : plane.width])
    return found


def blend_(
    picture: av.VideoFrame, heatmap: Tensor, colors: Tensor, alpha: float, region: Region, ranges: Tensor
) -> None:
    """Lays a heatmap [h, w] over a region of a writable picture of a canvas; ``ranges`` [2] become 0 and 1."""
    options: dict[str, Any] = dict(alpha=alpha, region=region, ranges=ranges[None])
    if picture.format.name == "yuv420p":
        luma, blue, red = (plane[None] for plane in planes(picture))
        ops.overlay_yuv420_(luma, blue, red, heatmap[None], colors, **options)
    else:
        ops.overlay_(_interleaved(picture)[None], heatmap[None], colors, **options)


def _interleaved(picture: av.VideoFrame) -> Tensor:
    """The planes of a 4:4:4 picture as one tensor [height, width, 3] in its memory."""
    first, second, third = (plane.buffer_ptr for plane in picture.planes)
    line = picture.planes[0].line_size
    step = second - first
    assert third - second == step > 0, "planes of a canvas are evenly spaced"
    size = 2 * step + line * picture.height
    memory = (ctypes.c_uint8 * size).from_address(first)
    tensor = torch.frombuffer(memory, dtype=torch.uint8)
    tensor._keeps_alive = picture  # type: ignore[attr-defined]
    return tensor.as_strided((picture.height, picture.width, 3), (line, 1, step))
