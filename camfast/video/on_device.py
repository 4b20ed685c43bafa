"""Pictures that stay on a device from the decoder to the encoder: taken, seen, and given out."""

from __future__ import annotations

import av
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.dlpack import from_dlpack

from camfast.colors import rgb_of_yuv
from camfast.preprocess import Preprocessing
from camfast.video.eye import Eye
from camfast.video.planes import Canvas, fill_black, planes, stored_format
from camfast.video.surface import AnyPicture, Surface

CPU = torch.device("cpu")
_DEEP = ("p010le", "p016le")
_PITCH = 256
"""Bytes to which the lines of a picture for the device's encoder are rounded up, as FFmpeg does for its own."""


class DeviceCanvas(Canvas):
    """Surfaces of a video's own size on a device, one after the other.

    Args:
        first: the first picture; others are brought to its size.
        device: where pictures are.
        encoded_there: whether the encoder takes them there, too.
    """

    def __init__(self, first: av.VideoFrame, device: torch.device, encoded_there: bool = False) -> None:
        super().__init__(first)
        self._device = device
        self._encoded_there = encoded_there

    def taken(self, picture: AnyPicture) -> Surface:
        """A decoded picture as a surface that may be drawn on. What the decoder holds is free again afterwards.

        A picture that is not NV12 or P010 of the size of the canvas comes by way of the host.
        """
        assert isinstance(picture, av.VideoFrame)
        surface = Surface(self.height, self.width, self._device)
        luma, blue, red = surface.planes
        name = stored_format(picture).name
        if name in ("nv12", *_DEEP) and (picture.width, picture.height) == (self.width, self.height):
            # Capsules, as PyAV does not take the stream that torch.from_dlpack would tell it. There is one stream:
            # the decoder writes, and this copies, in that of the device's context, where it also writes anew.
            stored, chroma = (from_dlpack(plane.__dlpack__()) for plane in picture.planes)
            if name in _DEEP:
                stored, chroma = _eight_bits(stored), _eight_bits(chroma)
            for own, other in zip((luma, blue, red), (stored, chroma[..., 0], chroma[..., 1]), strict=True):
                own.copy_(other)
            return surface
        converted = super().writable(picture)
        for own, other in zip((luma, blue, red), planes(converted), strict=True):
            own.copy_(other)
        return surface

    def writable(self, picture: AnyPicture, keep: bool = False) -> AnyPicture:
        assert isinstance(picture, Surface)
        return picture.copy() if keep else picture

    def blank(self, height: int | None = None, width: int | None = None) -> AnyPicture:
        surface = Surface(height or self.height, width or self.width, self._device)
        fill_black(surface.planes, self.range)
        return surface

    def colors(self, colormap: str) -> Tensor:
        return super().colors(colormap).to(self._device)

    def finished(self, picture: AnyPicture) -> av.VideoFrame:
        """A drawn surface for the encoder: on the device, or copied to the host, once."""
        assert isinstance(picture, Surface)
        if self._encoded_there:
            return _for_its_encoder(picture)
        host = Surface(picture.height, picture.width, CPU, pinned=self._device.type == "cuda")
        host.storage.copy_(picture.storage)
        # By way of numpy, for which pinned memory is no other than the host's.
        return av.VideoFrame.from_dlpack(tuple(plane.numpy() for plane in host.planes), format="yuv420p")


class DeviceEye(Eye):
    """What a model sees of surfaces: resized and converted on their device.

    Planes are resized with antialiasing, as torchvision does it, where :class:`Eye` has swscale do it. On a real 720p
    clip the two differ by 0.4 levels on average, by 3 or less in 99 of 100 samples, by up to 21 at the sharpest edges.

    Args:
        preprocess: the model's.
        picture: the first that was decoded.
        canvas: of the surfaces.
    """

    def __init__(self, preprocess: Preprocessing, picture: av.VideoFrame, canvas: Canvas) -> None:
        super().__init__(preprocess, picture)
        self._canvas = canvas
        self._mode = "bicubic" if preprocess.interpolation == "bicubic" else "bilinear"

    def _rgb(self, picture: AnyPicture, height: int, width: int) -> Tensor:
        assert isinstance(picture, Surface)
        resized = [self._resized(plane, height, width) for plane in picture.planes]
        rgb = rgb_of_yuv(torch.stack(resized), self._canvas.matrix, self._canvas.full_range)
        return rgb.round().clamp(0, 255).to(torch.uint8)

    def _resized(self, plane: Tensor, height: int, width: int) -> Tensor:
        values = plane[None, None].float()
        if plane.shape == (height, width):
            return values[0, 0]
        resized: Tensor = F.interpolate(values, (height, width), mode=self._mode, antialias=True)
        return resized[0, 0]


def _eight_bits(samples: Tensor) -> Tensor:
    """Samples of 16 bits, rounded to their upper 8."""
    low, high = samples.contiguous().view(torch.uint8).view(*samples.shape, 2).unbind(-1)  # little-endian
    return high + ((low > 127) & (high < 255)).to(torch.uint8)


def _for_its_encoder(surface: Surface) -> av.VideoFrame:
    """A surface as NV12 of the device: chroma right behind luma, as the encoder is told one address only."""
    height, width, device = surface.height, surface.width, surface.storage.device
    pitch = -(-width // _PITCH) * _PITCH
    lines = torch.empty((height * 3 // 2, pitch), dtype=torch.uint8, device=device)[:, :width]
    luma, blue, red = surface.planes
    own, chroma = lines[:height], lines[height:].view(height // 2, width // 2, 2)
    own.copy_(luma)
    chroma[..., 0].copy_(blue)
    chroma[..., 1].copy_(red)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # the encoder reads when it likes
    return av.VideoFrame.from_dlpack((own, chroma), format="nv12")
