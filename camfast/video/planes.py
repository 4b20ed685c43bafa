"""Decoded pictures as planes that can be drawn on: 8-bit YUV 4:2:0, or 4:4:4 where a side is odd."""

from __future__ import annotations

import ctypes
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.format import VideoFormat
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

from camfast import ops
from camfast.colors import yuv_colors
from camfast.placement import Region
from camfast.video.surface import AnyPicture, Surface

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


def stored_format(picture: av.VideoFrame) -> VideoFormat:
    """How the samples of a picture lie, also of one in a device's memory."""
    return picture.sw_format or picture.format


def _losses(picture: av.VideoFrame) -> list[str]:
    found = []
    components = stored_format(picture).components
    bits = max(component.bits for component in components)
    if bits > 8:
        found.append(f"{bits}-bit samples were rounded to 8 bits")
    if any(component.is_alpha for component in components):
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

    def taken(self, picture: AnyPicture) -> AnyPicture:
        """A decoded picture, out of the way of the decoder: as it is."""
        return picture

    def writable(self, picture: AnyPicture, keep: bool = False) -> AnyPicture:
        """The picture in the format of the canvas, in memory that no decoder has. Of 8-bit 4:2:0 every sample stays.

        Without ``keep`` it may be the picture itself.
        """
        assert isinstance(picture, av.VideoFrame)
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

    def blank(self, height: int | None = None, width: int | None = None) -> AnyPicture:
        """A black picture, of its own size unless another is given."""
        picture = av.VideoFrame(width or self.width, height or self.height, self.format)
        fill_black(planes(picture), self.range)
        return picture

    def finished(self, picture: AnyPicture) -> av.VideoFrame:
        """A drawn picture as the encoder takes it."""
        assert isinstance(picture, av.VideoFrame)
        return picture

    def colors(self, colormap: str) -> Tensor:
        """The levels of a colour map in the video's own colours: uint8 [256, 3]."""
        return yuv_colors(colormap, self.matrix, self.full_range)

    @property
    def matrix(self) -> str:
        """The matrix of its colours, by the name that :func:`camfast.colors.yuv_colors` has for it."""
        return {BT709: "bt709", BT2020: "bt2020"}.get(self.space, "bt601")

    @property
    def full_range(self) -> bool:
        """Whether levels go from 0 to 255."""
        return self.range == FULL


def fill_black(picture: list[Tensor], levels: int) -> None:
    """Makes the planes of a picture black; ``levels`` is FULL or LIMITED."""
    for plane, level in zip(picture, (0 if levels == FULL else 16, 128, 128), strict=True):
        plane.fill_(level)


def rgb(picture: av.VideoFrame, reformatter: VideoReformatter | None = None) -> npt.NDArray[np.uint8]:
    """A picture as uint8 RGB [H, W, 3]."""
    height, width = picture.height, picture.width
    made = _reformatted(picture, height, width, "rgb24", None, reformatter or VideoReformatter())
    plane: Any = made.planes[0]
    lines: npt.NDArray[np.uint8] = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
    return lines[:, : 3 * width].reshape(height, width, 3)


def resized_rgb(
    picture: av.VideoFrame, height: int, width: int, interpolation: Interpolation | None, reformatter: VideoReformatter
) -> Tensor:
    """A picture as uint8 RGB [3, height, width], straight from its planes: no RGB picture of its own size is made."""
    # Planar: swscale makes it in half of the time of rgb24, and with the chroma of every pixel also for even widths.
    green, blue, red = planes(_reformatted(picture, height, width, "gbrp", interpolation, reformatter))
    return torch.stack([red, green, blue])


def _reformatted(
    picture: av.VideoFrame,
    height: int,
    width: int,
    pixel_format: str,
    interpolation: Interpolation | None,
    reformatter: VideoReformatter,
) -> av.VideoFrame:
    return reformatter.reformat(
        picture,
        width=width,
        height=height,
        format=pixel_format,
        interpolation=interpolation,
        src_colorspace=_swscale(matrix_of(picture)),
        src_color_range=ColorRange(range_of(picture)),
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )


def planes(picture: AnyPicture) -> list[Tensor]:
    """The planes of a planar 8-bit picture, uint8 [height, width] each, in its own memory."""
    if isinstance(picture, Surface):
        return picture.planes
    found = []
    for plane in picture.planes:
        lines = torch.frombuffer(plane, dtype=torch.uint8).view(plane.height, plane.line_size)
        found.append(lines[:, : plane.width])
    return found


def blend_(picture: AnyPicture, heatmap: Tensor, colors: Tensor, alpha: float, region: Region, ranges: Tensor) -> None:
    """Lays a heatmap [h, w] over a region of a writable picture of a canvas; ``ranges`` [2] become 0 and 1.

    The colours are on the device of the picture; heatmap and ranges, a few numbers, come there.
    """
    heatmaps, ranges = (values[None].to(colors.device, non_blocking=True) for values in (heatmap, ranges))
    options: dict[str, Any] = dict(alpha=alpha, region=region, ranges=ranges)
    if isinstance(picture, Surface) or picture.format.name == "yuv420p":
        luma, blue, red = (plane[None] for plane in planes(picture))
        ops.overlay_yuv420_(luma, blue, red, heatmaps, colors, **options)
    else:
        ops.overlay_(_interleaved(picture)[None], heatmaps, colors, **options)


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
