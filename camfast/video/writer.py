"""Frames into a video file with the size, rate and time stamps of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace

from camfast.errors import OutputError
from camfast.video.reader import VideoReader, media_url

SUFFIXES = (".mp4", ".mov", ".mkv")
"""Containers that can be written, all with H.264."""

_X264 = {"crf": "18", "preset": "veryfast"}
_TAGS = ("color_range", "colorspace", "color_primaries", "color_trc")


def check_suffix(path: Path) -> None:
    """Raises OutputError for a container that cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")


class VideoWriter:
    """Encodes frames as H.264 with the size, rate, time base and colour tags of a reader's stream.

    Sound and subtitles are copied as they are where the container takes them; :attr:`left_out` names those it does
    not. Odd sizes, which 4:2:0 chroma does not allow, are encoded as 4:4:4.
    """

    def __init__(self, path: Path, source: VideoReader) -> None:
        self.container = av.open(media_url(path), "w")
        self.left_out: list[str] = []
        stream = self.container.add_stream("libx264", rate=source.rate, options=dict(_X264))
        stream.width, stream.height = source.width, source.height
        stream.pix_fmt = "yuv420p" if source.width % 2 == 0 and source.height % 2 == 0 else "yuv444p"
        stream.time_base = source.time_base
        stream.codec_context.time_base = source.time_base
        origin = source.stream.codec_context
        if source.stream.sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = source.stream.sample_aspect_ratio
        for tag in _TAGS:
            value = getattr(origin, tag, None)
            if value is not None:
                setattr(stream.codec_context, tag, value)
        # Tagged or not, frames go back through the matrix and range through which they became RGB.
        self._colorspace = Colorspace(origin.colorspace) if origin.colorspace in set(Colorspace) else None
        self._range = ColorRange.JPEG if origin.color_range == ColorRange.JPEG.value else ColorRange.MPEG
        self._stream = stream
        self._copies: dict[int, Any] = {}
        self._add_copies(source)

    @property
    def copied(self) -> tuple[int, ...]:
        """Indices of the source streams that are copied."""
        return tuple(self._copies)

    def write(self, pixels: npt.NDArray[np.uint8], pts: int) -> None:
        """Encode one frame, RGB [H, W, 3], shown at ``pts``."""
        rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = rgb.reformat(format=self._stream.pix_fmt, dst_colorspace=self._colorspace, dst_color_range=self._range)
        frame.pts = pts
        frame.time_base = self._stream.codec_context.time_base
        frame.pict_type = PictureType.NONE  # the encoder chooses key frames
        with _refusals():
            self.container.mux(self._stream.encode(frame))

    def copy(self, packet: Any) -> None:
        """Pass a packet of a copied stream on."""
        packet.stream = self._copies[packet.stream.index]
        with _refusals():
            self.container.mux(packet)

    def finish(self) -> None:
        """Encode what the encoder still holds."""
        with _refusals():
            self.container.mux(self._stream.encode(None))

    def _add_copies(self, source: VideoReader) -> None:
        for stream in source.container.streams:
            if stream.type not in ("audio", "subtitle"):
                continue
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            try:
                if codec not in self.container.supported_codecs and codec != "unknown":
                    raise ValueError(codec)
                self._copies[stream.index] = self.container.add_stream_from_template(stream)
            except (av.error.FFmpegError, ValueError):
                self.left_out.append(f"{stream.type} ({codec})")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()


@contextmanager
def _refusals() -> Iterator[None]:
    """What the encoder or the container will not take, in words; errors of the disk have words of their own."""
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OutputError(f"the encoder or the container refuses a frame: {error.strerror}") from error
