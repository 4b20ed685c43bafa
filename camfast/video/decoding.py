"""Where the frames of a video are decoded: on the model's device where a decoder can be opened, else on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import av
import av.error
import torch
from av.codec.hwaccel import HWAccel

from camfast.errors import CamfastError, InputError
from camfast.video.sources import is_live, open_source, reason_of

Decode = Literal["auto", "cpu", "device"]
DECODE: tuple[Decode, ...] = ("auto", "cpu", "device")

_DEVICES = ("cuda",)
"""Devices that PyAV gives frames of."""
_FORMATS = ("yuv420p", "yuvj420p", "nv12", "yuv420p10le")
"""What a device's decoder puts out as NV12 or P010."""
_SPARE_SURFACES = "8"
"""Pictures that may be held beside those that the decoder needs; each is copied as soon as it is taken."""


class NotOnDeviceError(CamfastError):
    """A video cannot be decoded on a device; the message is the reason."""


def device_for(decode: Decode, device: torch.device) -> torch.device | None:
    """Where decoding is tried for a model on a device; None for the CPU alone.

    Raises:
        ValueError: no such choice, or ``"device"`` where the model's device has no decoder.
    """
    if decode not in DECODE:
        raise ValueError(f"decode={decode!r} is unknown; expected one of {', '.join(map(repr, DECODE))}")
    if decode == "device" and device.type not in _DEVICES:
        raise ValueError(f"decode='device' needs a model on a {' or '.join(_DEVICES)} device; this one is on {device}")
    return device if decode != "cpu" and device.type in _DEVICES else None


def accelerator(device: torch.device) -> HWAccel | None:
    """What PyAV opens decoders and encoders of a device with, in the context that PyTorch uses.

    Where the device cannot decode a stream, it is decoded on the CPU by the same container.

    Raises:
        NotOnDeviceError: the device, its driver, or its decoder's library is missing.
    """
    index = device.index if device.index is not None else torch.cuda.current_device()
    found = HWAccel(device.type, str(index), allow_software_fallback=True, is_hw_owned=True)
    try:
        found.create(av.Codec("h264", "r"))
    except (av.error.FFmpegError, NotImplementedError) as error:
        raise NotOnDeviceError(f"{device} has no decoder that can be opened ({reason_of(error)})") from None
    return found


def opened_on_device(source: str | Path, stream: Any, device: torch.device) -> Any:
    """A container of a source whose picture is decoded on a device, with ``stream`` of one that is open already.

    Raises:
        NotOnDeviceError: it cannot be.
    """
    if is_live(source):
        raise NotOnDeviceError("a pipe or a camera is decoded on the CPU")
    pixel_format = stream.codec_context.pix_fmt
    if pixel_format not in _FORMATS:
        raise NotOnDeviceError(f"pictures of {pixel_format or 'an unknown format'} are decoded on the CPU")
    if stream.width % 2 or stream.height % 2:
        raise NotOnDeviceError(f"pictures of {stream.width}x{stream.height}, an odd size, are decoded on the CPU")
    found = accelerator(device)
    try:
        container = open_source(source, found)
    except (InputError, av.error.FFmpegError) as error:
        raise NotOnDeviceError(f"the decoder of {device} does not open ({reason_of(error)})") from None
    video = container.streams.video[0]
    if found is not None and not video.codec_context.is_hwaccel:
        container.close()
        raise NotOnDeviceError(f"{device} has no decoder for {video.codec_context.name}")
    video.thread_type = "SLICE"  # the device decodes; frames of several threads would only hold more of its memory
    video.codec_context.options = {"extra_hw_frames": _SPARE_SURFACES}
    return container


def stays_on(picture: av.VideoFrame, device: torch.device) -> bool:
    """Whether decoded pictures like this one can stay on a device: its decoder may leave them to the CPU after all."""
    held = picture.format.name if picture.sw_format is not None else "cpu"
    return held == device.type and picture.width % 2 == 0 and picture.height % 2 == 0


def report() -> str:
    """Where videos can be decoded here, for people."""
    found = ["cpu"]
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        try:
            accelerator(device)
        except NotOnDeviceError as reason:
            found.append(f"not {reason}")
        else:
            found.append(str(device))
    return ", ".join(found)
