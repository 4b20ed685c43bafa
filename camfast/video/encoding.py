"""Which encoder, at which quality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import av.error
from av.codec.codec import UnknownCodecError

from camfast.errors import OutputError
from camfast.suggest import did_you_mean

SUFFIXES = (".mp4", ".mov", ".mkv")
"""Containers that can be written."""

CODECS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9", "ffv1": "ffv1"}
"""Encoders by the names of their formats; any other encoder of FFmpeg goes by its own name."""

_DEFAULT_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "18", "preset": "veryfast"},
    "libx265": {"crf": "20", "preset": "veryfast", "x265-params": "log-level=error"},
    "libsvtav1": {"crf": "28", "preset": "10", "svtav1-params": "lp=0"},
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
            options["crf"] = f"{self.crf:g}"
        if self.preset is not None:
            options["preset"] = self.preset
        return options

    def takes(self, pixel_format: str) -> bool:
        """Whether the encoder takes pictures of a format."""
        formats = av.Codec(self.encoder, "w").video_formats
        return formats is None or pixel_format in {known.name for known in formats}


def check_suffix(path: Path) -> None:
    """Raises OutputError for a container that cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
