"""Pictures into a video file with the rate, time stamps and colour tags of another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import torch
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, VideoReformatter

from camfast.errors import OutputError
from camfast.video import decoding
from camfast.video.encoding import Encoding
from camfast.video.others import Others, told
from camfast.video.planes import FULL, Canvas, stored_format
from camfast.video.sources import media_url, reason_of

# In pieces of a second or two, each on the disk as soon as it is whole, so that what is there can be played. MP4 gets
# its index at the end; what comes before time 0, as sound does, stays there.
_MP4 = {"movflags": "hybrid_fragmented+frag_keyframe+delay_moov", "frag_duration": "2000000", "flush_packets": "1"}
_MATROSKA = {"cluster_time_limit": "1000", "flush_packets": "1", "avoid_negative_ts": "disabled"}


@dataclass(frozen=True)
class Picture:
    """What the pictures of a video have in common."""

    canvas: Canvas
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    aspect: Fraction | None
    """Of a pixel."""
    display_matrix: tuple[int, ...] | None
    """How players are to turn the picture."""
    primaries: int | None = None
    transfer: int | None = None
    device: torch.device | None = None
    """Where pictures are that the encoder takes there; None for the host."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of the source's stream."""


class VideoWriter:
    """Encodes pictures, and takes sound and subtitles along.

    Args:
        path: .mp4, .mov or .mkv; to be played as far as it was written, also where the process is killed.
        picture: what they have in common.
        encoding: with which encoder.
        others: streams of the source beside the picture.
        metadata, chapters: of the source.

    Raises:
        OutputError: the encoder or the container refuses.
    """

    def __init__(
        self,
        path: Path,
        picture: Picture,
        encoding: Encoding | None = None,
        others: Iterable[Any] = (),
        metadata: dict[str, str] | None = None,
        chapters: list[Any] | None = None,
    ) -> None:
        self._path = path
        self._picture = picture
        self._encoding = encoding or Encoding()
        self._metadata = metadata or {}
        self._chapters = chapters or []
        self._durations: dict[int, int] = {}
        self._reformatter = VideoReformatter()
        self._open(list(others))
        try:
            self._stream.codec_context.open()
            self.container.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            self.container.close()
            path.unlink(missing_ok=True)
            settings = f"--codec {self._encoding.codec} with {self._encoding.options}"
            raise OutputError(f"{path.suffix} cannot be written with {settings} ({reason_of(error)})") from None

    def _open(self, others: list[Any]) -> None:
        picture, encoding = self._picture, self._encoding
        options = _MATROSKA if self._path.suffix.lower() == ".mkv" else _MP4
        self.container: Any = av.open(media_url(self._path), "w", options=options)
        self.container.metadata.update(self._metadata)
        there = None if picture.device is None else decoding.accelerator(picture.device)
        stream: Any = self.container.add_stream(
            encoding.encoder, rate=picture.rate, options=encoding.options, hwaccel=there
        )
        stream.width, stream.height = picture.width, picture.height
        full = picture.canvas.range == FULL
        # The older way to say that levels go from 0 to 255, which some encoders want to hear too.
        older = picture.canvas.format.replace("yuv", "yuvj")
        self._format = older if full and encoding.takes(older) else picture.canvas.format
        if picture.device is not None:
            self._format = "nv12"
        stream.pix_fmt = self._format
        if not encoding.takes(self._format):
            raise OutputError(
                f"codec {encoding.codec!r} does not take {picture.width}x{picture.height} pictures ({self._format}); "
                "use h264 or ffv1"
            )
        stream.time_base = stream.codec_context.time_base = picture.time_base
        # Frames at once, as FFmpeg's command has it: in slices of one, PyAV's choice, threads wait for each other.
        stream.codec_context.thread_type = "AUTO"
        # Without B-frames packets are in order of presentation, and MP4 keeps how long each frame is shown.
        stream.codec_context.max_b_frames = 0
        if picture.aspect:
            stream.codec_context.sample_aspect_ratio = picture.aspect
        stream.codec_context.color_range = picture.canvas.range_tag
        stream.codec_context.colorspace = picture.canvas.space_tag
        if picture.primaries is not None:
            stream.codec_context.color_primaries = picture.primaries
        if picture.transfer is not None:
            stream.codec_context.color_trc = picture.transfer
        if picture.display_matrix is not None:
            stream.set_display_matrix(picture.display_matrix)
        stream.metadata.update(told(picture.metadata))
        self._stream = stream
        self.others = Others(self.container, others)
        if self._chapters:
            self.container.set_chapters(self._chapters)

    def write(self, picture: av.VideoFrame, pts: int, duration: int) -> None:
        """Encode a picture of the canvas, shown at a time, and for a duration (0: unknown), in the time base."""
        if stored_format(picture).name != self._format:  # the same samples by another name
            picture = self._reformatter.reformat(
                picture,
                format=self._format,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG,
                threads=1,
            )
        picture.pts = pts
        picture.time_base = self._stream.codec_context.time_base
        picture.pict_type = PictureType.NONE  # the encoder chooses key frames
        self._durations[pts] = duration
        self._encode(picture)

    def take_over(self, packet: av.Packet[Any]) -> None:
        """Write a packet of the picture that is encoded already, by the same encoder with the same settings."""
        packet.stream = self._stream
        with _refusals():
            self.container.mux(packet)

    def copy(self, packet: av.Packet[Any]) -> None:
        """Pass a packet of another stream of the source on."""
        with _refusals():
            for made in self.others.packets(packet):
                self.container.mux(made)

    def finish(self) -> None:
        """Encode what the encoders still hold, and complete the file."""
        self._encode(None)
        with _refusals():
            for packet in self.others.rest():
                self.container.mux(packet)
            self.container.close()

    def _encode(self, picture: av.VideoFrame | None) -> None:
        with _refusals():
            for packet in self._stream.encode(picture):
                # The encoder knows a rate, not how long a frame lasts; of the last one nothing else tells.
                packet.duration = self._durations.pop(packet.pts or 0, 0)
                self.container.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.container.close()
            return
        try:
            self.container.close()
        except (av.error.FFmpegError, OSError):  # what went wrong first is what counts
            return


@contextmanager
def _refusals() -> Iterator[None]:
    """What the encoder or the container will not take, in words; errors of the disk have words of their own."""
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OutputError(f"the encoder or the container refuses a frame: {error.strerror}") from error
