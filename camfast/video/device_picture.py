"""A picture that a device has decoded: its planes as tensors there, which never come to the host."""

from __future__ import annotations

from typing import Any

import av
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

HARDWARE = frozenset({"cuda"})
"""Pixel formats of pictures in a device's memory."""
_FORMATS = ("nv12", "p010le")
"""What lies there, where it can be taken as it is: 4:2:0 with both chroma planes in one, of 8 or 10 bits."""


def is_on_device(picture: av.VideoFrame) -> bool:
    """Whether a decoded picture is in the memory of a device."""
    return picture.format.name in HARDWARE


def can_stay_there(picture: av.VideoFrame) -> bool:
    """Whether such a picture has the form of a :class:`DevicePicture`: even sides, and planes that are known here."""
    return samples_of(picture) in _FORMATS and picture.width % 2 == 0 and picture.height % 2 == 0


def samples_of(picture: av.VideoFrame) -> str:
    """The pixel format, in a device's memory too."""
    return str((picture.sw_format or picture.format).name)


class DevicePicture:
    """YUV 4:2:0 with 8 bits, in memory of its own: a decoder lends few pictures at a time.

    Args:
        luma: uint8 [H, W], with even sides.
        chroma: uint8 [H / 2, W / 2, 2], blue and red.
    """

    def __init__(self, luma: Tensor, chroma: Tensor) -> None:
        self.luma = luma
        self.chroma = chroma

    @classmethod
    def of(cls, picture: av.VideoFrame, size: tuple[int, int], device: torch.device) -> DevicePicture:
        """A decoded picture, brought to (height, width) where it has another size, as after a change on the way."""
        height, width = size
        if (picture.height, picture.width) != size or not can_stay_there(picture):
            picture = picture.reformat(width=width, height=height, format="nv12", threads=1)  # on the host
        luma, chroma = (_eight_bits(_tensor(plane)).to(device) for plane in picture.planes)
        if luma.is_cuda:
            torch.cuda.current_stream(luma.device).synchronize()  # before the decoder uses its memory again
        return cls(luma, chroma)

    @property
    def height(self) -> int:
        return self.luma.shape[0]

    @property
    def width(self) -> int:
        return self.luma.shape[1]

    @property
    def planes(self) -> list[Tensor]:
        """Luma, blue and red: uint8 [height, width] each, in the picture's memory."""
        return [self.luma, self.chroma[..., 0], self.chroma[..., 1]]

    def clone(self) -> DevicePicture:
        """The same picture in other memory."""
        return DevicePicture(self.luma.clone(), self.chroma.clone())

    def on_host(self) -> av.VideoFrame:
        """The picture as encoders take it, yuv420p, in one copy from the device."""
        levels = torch.cat([plane.reshape(-1) for plane in self.planes]).cpu()
        picture = av.VideoFrame(self.width, self.height, "yuv420p")
        begin = 0
        for plane in picture.planes:
            lines = torch.frombuffer(plane, dtype=torch.uint8).view(plane.height, plane.line_size)
            end = begin + plane.height * plane.width
            lines[:, : plane.width] = levels[begin:end].view(plane.height, plane.width)
            begin = end
        return picture


def _tensor(plane: Any) -> Tensor:
    # The capsule itself: PyAV takes no stream to wait for, and frames are ready on the default one.
    found: Tensor = from_dlpack(plane.__dlpack__())
    return found


def _eight_bits(levels: Tensor) -> Tensor:
    """In other memory, the high bits of 16 rounded to 8."""
    if levels.dtype == torch.uint8:
        return levels.clone()
    return ((levels.int() + 128) >> 8).clamp_(max=255).to(torch.uint8)
