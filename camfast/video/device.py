"""Frames on a device: decoded there, seen there, and drawn on there, up to the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from camfast.colors import MATRICES
from camfast.preprocess import Preprocessing, Region
from camfast.video.device_picture import DevicePicture, can_stay_there, is_on_device, samples_of
from camfast.video.eye import Eye
from camfast.video.planes import FULL, AnyPicture, Canvas, matrix_name
from camfast.video.reader import Frame, VideoReader

Decode = Literal["auto", "host", "device"]
DECODE: tuple[Decode, ...] = ("auto", "host", "device")


def decoding_device(decode: str, device: torch.device) -> torch.device | None:
    """The device that is to decode for a model on ``device``; None for the host.

    Raises:
        ValueError: an unknown ``decode``; ``"device"`` for a model that is on none.
    """
    if decode not in DECODE:
        raise ValueError(f"decode={decode!r} is unknown; expected one of {', '.join(map(repr, DECODE))}")
    if decode == "device" and device.type != "cuda":
        raise ValueError(f"decode='device' needs a model on a CUDA device; the model is on {device}")
    return device if decode != "host" and device.type == "cuda" else None


def decoded_on(canvas: Canvas, reader: VideoReader, device: torch.device | None) -> str:
    """Where frames are decoded, and why not on the device that was tried."""
    if isinstance(canvas, DeviceCanvas):
        return str(device)
    if device is None:
        return "host"
    return f"host ({reader.not_on_device or 'the device has no decoder for this kind of video'})"


def workplace(
    first: av.VideoFrame, preprocess: Preprocessing, device: torch.device
) -> tuple[Eye, Canvas, Callable[[AnyPicture], AnyPicture]]:
    """What sees and what is drawn on, and how decoded pictures become what these take: on the device, where the first
    picture was decoded there and its form is one that can stay; on the host otherwise.
    """
    if not is_on_device(first):
        return Eye(preprocess, first), Canvas(first), lambda picture: picture
    if not can_stay_there(first):
        on_host = _on_host(first)
        return Eye(preprocess, on_host), Canvas(on_host), _on_host
    canvas = DeviceCanvas(first, device)
    size = first.height, first.width

    def taken(picture: AnyPicture) -> AnyPicture:
        assert isinstance(picture, av.VideoFrame)  # as decoders give it
        return DevicePicture.of(picture, size, device)

    return DeviceEye(preprocess, first, canvas), canvas, taken


def taken_over(items: Iterator[Any], take: Callable[[AnyPicture], AnyPicture]) -> Iterator[Any]:
    """The same items, with the pictures of frames as the workplace takes them; those shown again are taken once."""
    before: av.VideoFrame | None = None
    taken: AnyPicture | None = None
    for item in items:
        if not isinstance(item, Frame):
            yield item
            continue
        if taken is None or item.picture is not before:
            assert isinstance(item.picture, av.VideoFrame)
            before, taken = item.picture, take(item.picture)
        yield replace(item, picture=taken)


class DeviceCanvas(Canvas):
    """Draws on pictures of a device. See :class:`Canvas`."""

    def __init__(self, first: av.VideoFrame, device: torch.device) -> None:
        super().__init__(first)
        self._device = device

    def writable(self, picture: Any, keep: bool = False) -> Any:
        """The picture itself, whose memory is its own; with ``keep`` a copy."""
        return picture.clone() if keep else picture

    def blank(self, width: int | None = None) -> Any:
        """A black picture."""
        columns = width or self.width
        luma = torch.full((self.height, columns), 0 if self.range == FULL else 16, dtype=torch.uint8)
        chroma = torch.full((self.height // 2, columns // 2, 2), 128, dtype=torch.uint8)
        return DevicePicture(luma.to(self._device), chroma.to(self._device))

    def colors(self, colormap: str) -> Tensor:
        return super().colors(colormap).to(self._device)

    def finished(self, picture: Any) -> av.VideoFrame:
        on_host: av.VideoFrame = picture.on_host()
        return on_host


class DeviceEye(Eye):
    """What the model sees, resized on the device with the filters of PyTorch. See :class:`Eye`.

    swscale's filters on the host are the same but for rounding, in which some of its conversions come out darker:
    levels differ by two on average at most.
    """

    def __init__(self, preprocess: Preprocessing, first: av.VideoFrame, canvas: Canvas) -> None:
        super().__init__(preprocess, first)
        self._to_rgb = _conversion(matrix_name(canvas.space), canvas.range == FULL)

    def __call__(self, picture: Any) -> Tensor:
        """uint8 RGB [crop, crop, 3], on the device."""
        height, width = self._placed.height, self._placed.width
        if self._turns % 2:
            height, width = width, height
        small = self._rgb(picture, self.stored(self._placed.window), height, width)
        if self._mirrored:
            small = small.flip(1)
        return self._preprocess.cut(small.rot90(self._turns)[None], self._placed)[0]

    def _rgb(self, picture: DevicePicture, window: Region, height: int, width: int) -> Tensor:
        """A part of a picture at another size: uint8 RGB [height, width, 3]."""
        mode = "bicubic" if self._preprocess.interpolation == "bicubic" else "bilinear"

        def resized(levels: Tensor) -> Tensor:
            return F.interpolate(levels.float()[None], (height, width), mode=mode, antialias=True)[0]

        top, left, rows, columns = window
        luma = picture.luma[top : top + rows, left : left + columns]
        chroma = picture.chroma[top // 2 : (top + rows + 1) // 2, left // 2 : (left + columns + 1) // 2]
        levels = torch.cat([resized(luma[None]), resized(chroma.permute(2, 0, 1))])
        scale, offset = (torch.from_numpy(values).to(levels) for values in self._to_rgb)
        pixels = torch.tensordot(scale, levels, dims=1) + offset[:, None, None]
        seen: Tensor = pixels.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)
        return seen


def _conversion(matrix: str, full: bool) -> tuple[Any, Any]:
    """Weights [3, 3] and offsets [3] that make red, green and blue in [0, 255] of luma, blue and red chroma."""
    weight_red, weight_blue = MATRICES[matrix]
    weight_green = 1 - weight_red - weight_blue
    red, blue = 2 * (1 - weight_red), 2 * (1 - weight_blue)
    ideal = np.array(
        [[1, 0, red], [1, -blue * weight_blue / weight_green, -red * weight_red / weight_green], [1, blue, 0]]
    )
    scale = ideal * ([1, 1, 1] if full else [255 / 219, 255 / 224, 255 / 224])
    return scale, -scale @ ([0, 128, 128] if full else [16, 128, 128])


def _on_host(picture: AnyPicture) -> av.VideoFrame:
    """A picture of a device, copied to the host as it is; others are there."""
    assert isinstance(picture, av.VideoFrame)
    return picture.reformat(format=samples_of(picture), threads=1) if is_on_device(picture) else picture
