"""Frames out of a video file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from camfast.errors import InputError
from camfast.files import check_input

# Containers of one file each. A playlist could make FFmpeg open other files, or addresses.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,dv,rm,wtv,ivf,gif,apng,yuv4mpegpipe,"
    "h264,hevc,av1,obu,m4v,mpegvideo"
)
_ONE_LOCAL_FILE = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


LARGEST_FRAME = 2**27
"""Pixels of a frame beyond which a header is not believed."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    pixels: npt.NDArray[np.uint8]
    """RGB [H, W, 3]."""
    pts: int
    """Presentation time, in units of the stream's time base."""
    duration: int
    """How long it is shown, in the same units; 0 where the file does not say."""


class VideoReader:
    """Opens a video and yields its frames in order of presentation.

    Damage does not end the reading: what cannot be decoded is skipped, and :attr:`damage` says so afterwards.

    Raises:
        InputError: the file is missing, a directory, empty, not a video, cut before its index, or without a picture.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_input(self.path)
        try:
            self.container = av.open(media_url(self.path), options=_ONE_LOCAL_FILE)
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(
                f"{self.path} is not a video file in a known format, or is cut off before its index ({_reason(error)})"
            ) from None
        try:
            if not self.container.streams.video:
                raise InputError(f"{self.path} has no video stream")
            self.stream = self.container.streams.video[0]
            if self.stream.codec_context is None or self.stream.width < 1 or self.stream.height < 1:
                raise InputError(f"{self.path} has a video stream that cannot be decoded")
            size = (self.stream.width, self.stream.height)
            if size[0] * size[1] > LARGEST_FRAME:
                raise InputError(f"{self.path} claims frames of {size[0]}x{size[1]}, more than can be decoded")
        except InputError:
            self.container.close()
            raise
        self.stream.thread_type = "AUTO"
        self.width, self.height = size
        self.time_base: Fraction = self.stream.time_base or Fraction(1, 90000)
        self.rate: Fraction = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        # Asked for now, because afterwards the container may be closed.
        self.announced_frames: int | None = self.stream.frames or None
        """How many frames the file says it has; None where it does not say."""
        self._announced_end, self._tolerance = self._end()
        self.decoded = 0
        self._skipped_packets = 0
        self._last_pts: int | None = None
        self._last_end = Fraction(0)
        self._broken_off: str | None = None

    @property
    def damage(self) -> str | None:
        """After reading: what was wrong with the file, in one line; None for a whole one."""
        found = []
        if self._broken_off:
            found.append(f"reading broke off ({self._broken_off})")
        if self._skipped_packets:
            found.append(f"{self._skipped_packets} damaged packets were skipped")
        missing = self._missing()
        if missing:
            found.append(missing)
        return "; ".join(found) or None

    def frames(
        self, other_packets: Callable[[Any], None] | None = None, others: tuple[Any, ...] = ()
    ) -> Iterator[Frame]:
        """Every frame that can be decoded; packets of the ``others`` streams go to ``other_packets`` on the way."""
        for packet in self._packets(others):
            if packet.stream is not self.stream:
                if other_packets is not None and packet.dts is not None:
                    other_packets(packet)
                continue
            yield from self._decode(packet)

    def _packets(self, others: tuple[Any, ...]) -> Iterator[Any]:
        try:
            yield from self.container.demux(self.stream, *others)
        except av.error.FFmpegError as error:
            self._broken_off = _reason(error)
            flush = av.Packet()  # an empty one makes the decoder give out the frames that it still holds
            flush.stream = self.stream
            yield flush

    def _decode(self, packet: Any) -> Iterator[Frame]:
        try:
            decoded = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            self._skipped_packets += 1
            return
        for frame in decoded:
            pts = frame.pts if frame.pts is not None else round(self._last_end / self.time_base)
            # Missing or repeated time stamps, which some files have: no container takes them.
            pts = pts if self._last_pts is None else max(pts, self._last_pts + 1)
            self._last_pts = pts
            length = frame.duration * self.time_base if frame.duration else 1 / self.rate
            self._last_end = pts * self.time_base + length
            self.decoded += 1
            # A size that changes on the way becomes that of the first frame.
            yield Frame(
                frame.to_ndarray(format="rgb24", width=self.width, height=self.height), pts, frame.duration or 0
            )

    def _missing(self) -> str | None:
        """What the file announces at its end and does not have."""
        if self._announced_end is None or self._announced_end - self._last_end <= self._tolerance:
            return None
        if self.announced_frames is not None:
            return f"{self.announced_frames - self.decoded} of {self.announced_frames} frames are missing"
        return f"the last {float(self._announced_end - self._last_end):.2f} s are missing"

    def _end(self) -> tuple[Fraction | None, Fraction]:
        """When the file says that the picture ends, in seconds, and how exact that is.

        Frames are not counted: an edit list may leave some out on purpose.
        """
        if self.stream.duration is not None:
            return (self.stream.duration + (self.stream.start_time or 0)) * self.time_base, Fraction(3, 2) / self.rate
        hours, minutes, seconds = (self.stream.metadata.get("DURATION") or "::").split(":")  # as Matroska has it
        if hours and minutes and seconds:
            return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds), Fraction(1, 2)
        if self.container.duration is not None and len(self.container.streams) == 1:
            start = self.container.start_time or 0
            return Fraction(self.container.duration + start, av.time_base), Fraction(1, 2)
        return None, Fraction(0)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()


def media_url(path: Path) -> str:
    """How FFmpeg takes a path, also one with a colon in it."""
    return f"file:{path.absolute()}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
