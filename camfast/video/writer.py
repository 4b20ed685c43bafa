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
from camfast.video.reader import Frame, VideoReader, media_url

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
        self.left_out: list[str] = []
        self._durations: dict[int, int] = {}
        others = [stream for stream in source.container.streams if stream.type in ("audio", "subtitle")]
        self._open(path, source, others)
        try:
            self.container.start_encoding()
        except (av.error.FFmpegError, ValueError):  # some containers say only now what they do not take
            self.container.close()
            self._open(path, source, [])
            self.left_out = [_stream_name(stream) for stream in others]

    def _open(self, path: Path, source: VideoReader, others: list[Any]) -> None:
        self.container = av.open(media_url(path), "w")
        stream = self.container.add_stream("libx264", rate=source.rate, options=dict(_X264))
        stream.width, stream.height = source.width, source.height
        stream.pix_fmt = "yuv420p" if source.width % 2 == 0 and source.height % 2 == 0 else "yuv444p"
        stream.time_base = source.time_base
        stream.codec_context.time_base = source.time_base
        # Without B-frames packets are in order of presentation, and MP4 keeps how long each frame is shown.
        stream.codec_context.max_b_frames = 0
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
        for other in others:
            try:
                if other.codec_context is not None and other.codec_context.name not in self.container.supported_codecs:
                    raise ValueError(other.codec_context.name)
                self._copies[other.index] = self.container.add_stream_from_template(other)
            except (av.error.FFmpegError, ValueError):
                self.left_out.append(_stream_name(other))

    @property
    def copied(self) -> tuple[int, ...]:
        """Indices of the source streams that are copied."""
        return tuple(self._copies)

    def write(self, source: Frame, pixels: npt.NDArray[np.uint8]) -> None:
        """Encode RGB [H, W, 3], shown when and as long as a frame of the source."""
        rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = rgb.reformat(format=self._stream.pix_fmt, dst_colorspace=self._colorspace, dst_color_range=self._range)
        frame.pts = source.pts
        frame.time_base = self._stream.codec_context.time_base
        frame.pict_type = PictureType.NONE  # the encoder chooses key frames
        self._durations[source.pts] = source.duration
        self._encode(frame)

    def copy(self, packet: Any) -> None:
        """Pass a packet of a copied stream on."""
        packet.stream = self._copies[packet.stream.index]
        with _refusals():
            self.container.mux(packet)

    def finish(self) -> None:
        """Encode what the encoder still holds."""
        self._encode(None)

    def _encode(self, frame: av.VideoFrame | None) -> None:
        with _refusals():
            for packet in self._stream.encode(frame):
                # The encoder knows a rate, not how long a frame lasts; of the last one nothing else tells.
                packet.duration = self._durations.pop(packet.pts or 0, 0)
                self.container.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()


def _stream_name(stream: Any) -> str:
    return f"{stream.type} ({stream.codec_context.name if stream.codec_context else 'unknown'})"


@contextmanager
def _refusals() -> Iterator[None]:
    """What the encoder or the container will not take, in words; errors of the disk have words of their own."""
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OutputError(f"the encoder or the container refuses a frame: {error.strerror}") from error
