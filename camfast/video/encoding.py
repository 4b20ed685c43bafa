"""Which encoder, at which quality."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import torch
from av.codec.codec import UnknownCodecError

from camfast.errors import OutputError
from camfast.suggest import did_you_mean
from camfast.video import decoding

SUFFIXES = (".mp4", ".mov", ".mkv")
"""Containers that can be written."""

CODECS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9", "ffv1": "ffv1"}
"""Encoders by the names of their formats; any other encoder of FFmpeg goes by its own name."""

ON_DEVICE = {"h264": "h264_nvenc", "hevc": "hevc_nvenc", "av1": "av1_nvenc"}
"""Encoders that take pictures in a device's memory, by the names of their formats."""

_DEFAULT_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "18", "preset": "veryfast"},
    "libx265": {"crf": "20", "preset": "veryfast", "x265-params": "log-level=error"},
    "libsvtav1": {"crf": "28", "preset": "10", "svtav1-params": "lp=0"},
    "h264_nvenc": {"cq": "19", "rc": "vbr", "b": "0", "preset": "p4"},
    "hevc_nvenc": {"cq": "21", "rc": "vbr", "b": "0", "preset": "p4"},
    "av1_nvenc": {"cq": "28", "rc": "vbr", "b": "0", "preset": "p4"},
    "libvpx-vp9": {"crf": "28", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
}


@dataclass(frozen=True)
class Encoding:
    """How pictures are encoded.

    Raises:
        OutputError: no such encoder.
    """

    codec: str = "h264"
    """``h264``, ``hevc``, ``av1``, ``vp9``, ``ffv1`` (lossless), or the name of one of FFmpeg's encoders."""
    crf: float | None = None
    """Quality, less is better; None for the encoder's default here (h264: 18)."""
    preset: str | None = None
    """Speed against size; None for the encoder's default here (h264: veryfast)."""

    def __post_init__(self) -> None:
        try:
            codec = av.Codec(self.encoder, "w")
        except UnknownCodecError:
            raise OutputError(f"codec {self.codec!r} is unknown; {did_you_mean(self.codec, CODECS)}") from None
        if codec.type != "video":
            raise OutputError(f"codec {self.codec!r} is for {codec.type}; expected one of {', '.join(CODECS)}")

    @property
    def encoder(self) -> str:
        """Its name in FFmpeg."""
        return CODECS.get(self.codec, self.codec)

    @property
    def options(self) -> dict[str, str]:
        """What the encoder is told."""
        options = dict(_DEFAULT_OPTIONS.get(self.encoder, {}))
        if self.crf is not None:
            options["cq" if self.takes_surfaces else "crf"] = f"{self.crf:g}"
        if self.preset is not None:
            options["preset"] = self.preset
        return options

    @property
    def takes_surfaces(self) -> bool:
        """Whether the encoder takes pictures in a device's memory."""
        return self.encoder in ON_DEVICE.values()

    def takes(self, pixel_format: str) -> bool:
        """Whether the encoder takes pictures of a format."""
        formats = av.Codec(self.encoder, "w").video_formats
        return formats is None or pixel_format in {known.name for known in formats}


def encoding_on_device(encoding: Encoding, width: int, height: int, device: torch.device) -> Encoding:
    """The encoder of a device for the same format, where it opens for pictures of this size; else what was asked for.

    Where a quality or a preset was asked for it stays too: they mean something else to another encoder.
    """
    if encoding.codec not in ON_DEVICE or encoding.crf is not None or encoding.preset is not None:
        return encoding
    candidate = Encoding(ON_DEVICE[encoding.codec])
    try:
        context: Any = av.CodecContext.create(candidate.encoder, "w", hwaccel=decoding.accelerator(device))
        context.width, context.height, context.pix_fmt = width, height, "nv12"
        context.time_base = Fraction(1, 25)
        context.options = candidate.options
        context.open()
    except (decoding.NotOnDeviceError, av.error.FFmpegError, ValueError, NotImplementedError):
        return encoding
    return candidate


def check_suffix(path: Path) -> None:
    """Raises OutputError for a container that cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
