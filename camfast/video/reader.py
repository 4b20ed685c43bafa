"""Frames out of a video, as they were decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import torch

from camfast.errors import InputError
from camfast.video.announced import AVI, announced_by
from camfast.video.decoding import NotOnDeviceError, opened_on_device
from camfast.video.sources import PIPE, STANDARD_INPUT, is_live, open_source, reason_of
from camfast.video.surface import AnyPicture

LARGEST_FRAME = 2**27
"""Pixels of a frame beyond which a header is not believed."""
MATROSKA = "matroska"
"""The name of a format that has no time before 0."""
_FEW_CORES = 2
LATE = 1
"""Seconds by which other streams may lag behind the picture in a file."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    picture: AnyPicture
    """In its own pixel format. The decoder may hold the same memory: not to be written to."""
    pts: int
    """Presentation time, in units of the stream's time base."""
    duration: int
    """How long it is shown, in the same units; 0 where the file does not say."""
    shown_again: bool = False
    """Whether another frame has the same picture."""


class VideoReader:
    """Opens a video and yields its frames in order of presentation.

    Damage does not end the reading: what cannot be decoded is skipped, and :attr:`damage` says so afterwards. Frames
    without time stamps follow each other at the video's rate, before the first one that has a time stamp.

    Args:
        source: a path, ``"-"`` for standard input, or a camera's number.
        start: seconds to leave out at the beginning. Time stamps then begin as those of the whole video do.
        duration: how many seconds to read; None reads all.
        strict: raise InputError at the first packet that cannot be decoded, and where the end is missing.
        device: decode there, where a decoder of it opens; else, and by default, on the CPU.

    Raises:
        InputError: the file is missing, a directory, empty, not a video, cut before its index, or without a picture.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        start: Fraction | float = 0,
        duration: Fraction | float | None = None,
        strict: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.name = STANDARD_INPUT if str(source) == PIPE else str(source)
        self._source = source
        self._strict = strict
        self.container = open_source(source)
        try:
            if not self.container.streams.video:
                raise InputError(f"{self.name} has no video stream")
            self.stream = self.container.streams.video[0]
            if self.stream.codec_context is None or self.stream.width < 1 or self.stream.height < 1:
                raise InputError(f"{self.name} has a video stream that cannot be decoded")
            size = (self.stream.width, self.stream.height)
            if size[0] * size[1] > LARGEST_FRAME:
                raise InputError(f"{self.name} claims frames of {size[0]}x{size[1]}, more than can be decoded")
        except InputError:
            self.container.close()
            raise
        self.stream.thread_type = "AUTO"
        if (
            torch.get_num_threads() <= _FEW_CORES
        ):  # the model and the encoder keep them busy; one thread decodes with less
            self.stream.codec_context.thread_count = 1
        self.device: torch.device | None = None
        """The device whose decoder was opened; None for the CPU. It may still leave frames to the CPU."""
        self.refused: str | None = None
        """Why not the device that was asked for."""
        if device is not None:
            self._decode_on(source, device)
        # Also of a size that changes on the way.
        self.stream.codec_context.options = {**self.stream.codec_context.options, "max_pixels": str(LARGEST_FRAME)}
        self.width, self.height = size
        self.time_base: Fraction = self.stream.time_base or Fraction(1, 90000)
        self._format: str = self.container.format.name
        rates = [self.stream.average_rate, self.stream.guessed_rate]
        if self._format == AVI:  # whose average is that of slots for frames, and not each has one
            rates.reverse()
        self.rate: Fraction = rates[0] or rates[1] or Fraction(25)
        # Asked for now, because afterwards the container may be closed.
        self.announced = announced_by(source, self.container, self.rate, self.time_base)
        self._origin = (self.stream.start_time or 0) * self.time_base
        self._start = Fraction(start).limit_denominator(10**6)
        self._duration = None if duration is None else Fraction(duration).limit_denominator(10**6)
        self.decoded = 0
        """Frames given out so far."""
        self.skipped_packets = 0
        self._any_packet = False
        self._last_pts: int | None = None
        self._last_end = Fraction(0)
        self._longest = 0
        """The most time stamps from a frame to the next."""
        self._late: int | None = None
        """What makes room for frames without time stamps at the beginning; None until one has a time stamp."""
        self._broken_off: str | None = None
        self._ended_early = False

    def _decode_on(self, source: str | Path, device: torch.device) -> None:
        try:
            container = opened_on_device(source, self.stream, device)
        except NotOnDeviceError as reason:
            self.refused = str(reason)
            return
        self.container.close()
        self.container, self.stream, self.device = container, container.streams.video[0], device

    @property
    def whole(self) -> bool:
        """Whether all of the video is read."""
        return self._start == 0 and self._duration is None

    @property
    def expected_frames(self) -> int | None:
        """About how many frames there will be; None where the file does not say."""
        if self.whole:
            return self.announced.frames
        if self.announced.end is None:
            return None if self._duration is None else round(self._duration * self.rate)
        left = max(self.announced.end - self._origin - self._start, Fraction(0))
        return round((left if self._duration is None else min(left, self._duration)) * self.rate)

    @property
    def damage(self) -> str | None:
        """After reading: what was wrong with the file, in one line; None for a whole one."""
        found = []
        if self._broken_off:
            found.append(f"reading broke off ({self._broken_off})")
        if self.skipped_packets:
            packets = "packet was" if self.skipped_packets == 1 else "packets were"
            found.append(f"{self.skipped_packets} damaged {packets} skipped")
        if not self._ended_early:
            decoded = self.decoded if self._start == 0 else None
            end = self._last_end - self._seconds(self._late or 0)
            found += filter(None, [self.announced.missing(decoded, end, self._seconds(self._longest))])
        return "; ".join(found) or None

    def frames(self, others: tuple[Any, ...] = ()) -> Iterator[Frame | av.Packet[Any]]:
        """Every frame that can be decoded, and on the way the packets of ``others``, streams of the container."""
        held: list[av.Packet[Any]] = []  # until it is known when the first frame is shown
        shift: Fraction | None = None
        if self._start > 0:
            self._seek()
        for packet in self._packets(others):
            if packet.stream is not self.stream:
                if packet.dts is not None and packet.pts is not None:
                    held.append(packet)
                if shift is not None and self._late is not None:
                    yield from self._let_go(held, shift)
                continue
            if self._ended_early:
                late = self._seconds(self._late or 0)
                if packet.dts is not None and self._seconds(packet.dts) + late > self._origin + self._until + LATE:
                    break
                continue
            for frame in self._decode(packet):
                since = self._seconds(frame.pts) - self._origin
                if since < self._start and self._start > 0:  # some files have frames before what they call the start
                    continue
                if self._duration is not None and since >= self._until:
                    self._ended_early = True
                    break
                if shift is None:
                    shift = since if self._start > 0 else Fraction(0)
                if self._late is not None:
                    yield from self._let_go(held, shift)
                self.decoded += 1
                yield Frame(frame.picture, frame.pts - round(shift / self.time_base), frame.duration)
        if shift is not None:
            yield from self._let_go(held, shift)
        if self._strict and self.damage:
            if self.decoded == 0:
                raise self.no_frame()
            raise InputError(f"{self.name} is damaged: {self.damage}")

    def no_frame(self) -> InputError:
        """What to raise where reading gave no frame: why, as far as it is known."""
        if self.name == STANDARD_INPUT and not self._any_packet and self._format.startswith("mov,"):
            return InputError(
                f"{self.name} has its index at the end, to which a pipe cannot go; "
                "give the file, or write it with -movflags +faststart"
            )
        said = f"{self.name} has no frame that can be decoded"
        if self._start > 0:
            said += " in the part from --start on"
        length = None if self.announced.end is None else self.announced.end - self._origin
        if length is not None and self._start > 0 and 0 <= length <= self._start:
            return InputError(f"{said}: it is only {float(length):.2f} s long")
        if self._duration is not None:
            said += f"{',' if self._start > 0 else ' in the first'} {float(self._duration):g} s (--duration)"
        return InputError(said)

    @property
    def _until(self) -> Fraction:
        assert self._duration is not None
        return self._start + self._duration

    def _seconds(self, time: int) -> Fraction:
        return time * self.time_base

    def _seek(self) -> None:
        if self._cannot_count():
            return
        try:
            self.container.seek(round((self._origin + self._start) / self.time_base), stream=self.stream)
        except av.error.FFmpegError:  # a pipe, say: everything before the start is decoded, and left out
            return

    def _cannot_count(self) -> bool:
        """Whether frames before 0, of which Matroska cannot say when they are shown, have to be read to be counted."""
        if is_live(self._source) or MATROSKA not in self._format:
            return False
        with open_source(self._source) as container:  # another, as this one could not go back before 0
            first = next(container.demux(video=0), None)
        return first is not None and first.size > 0 and first.pts is None

    def _let_go(self, held: list[av.Packet[Any]], shift: Fraction) -> Iterator[av.Packet[Any]]:
        """The packets of other streams that are of the part that is read, moved as its frames are."""
        late = self._seconds(self._late or 0)
        for packet in held:
            if self._in_time(packet, shift, late):
                yield _moved(packet, shift - late)
        held.clear()

    def _in_time(self, packet: av.Packet[Any], shift: Fraction, late: Fraction) -> bool:
        """Whether a packet of another stream is of the part that is read."""
        assert packet.pts is not None
        assert packet.time_base is not None
        since = packet.pts * packet.time_base + late - self._origin
        return (shift == 0 or since >= shift) and (self._duration is None or since < self._until)

    def _packets(self, others: tuple[Any, ...]) -> Iterator[Any]:
        try:
            for packet in self.container.demux(self.stream, *others):
                self._any_packet = self._any_packet or packet.size > 0
                yield packet
        except av.error.FFmpegError as error:
            self._broken_off = reason_of(error)
            flush: Any = av.Packet()  # an empty one makes the decoder give out the frames that it still holds
            flush.stream = self.stream
            yield flush

    def _decode(self, packet: Any) -> Iterator[Frame]:
        try:
            decoded = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            if self._strict:
                when = "" if packet.pts is None else f" at {float(self._seconds(packet.pts)):.2f} s"
                raise InputError(f"{self.name} has a damaged packet{when} ({reason_of(error)})") from None
            self.skipped_packets += 1
            return
        for picture in decoded:
            if self._last_pts is None and picture.pts is None:
                self._begin_without_time()
            follows = round(self._last_end / self.time_base)
            if self._late is None and picture.pts is not None:
                # Those before it were counted from the beginning: all that follow make room for them.
                self._late = 0 if self._last_pts is None else max(follows - picture.pts, 0)
            pts = follows if picture.pts is None else picture.pts + (self._late or 0)
            if self._last_pts is not None:
                # Missing or repeated time stamps, which some files have: no container takes them.
                pts = max(pts, self._last_pts + 1)
                self._longest = max(self._longest, pts - self._last_pts)
            self._last_pts = pts
            duration = picture.duration or 0
            if self._format == AVI:  # which says a slot
                duration = max(duration, round(1 / self.rate / self.time_base))
            self._last_end = pts * self.time_base + (duration * self.time_base or 1 / self.rate)
            yield Frame(picture, pts, duration)

    def _begin_without_time(self) -> None:
        """Says when a first frame without a time stamp is shown."""
        if MATROSKA in self._format:
            self._origin = Fraction(0)  # it cannot say what is before 0, and begins with the first that it can say
        self._last_end = self._origin

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()


def _moved(packet: av.Packet[Any], shift: Fraction) -> av.Packet[Any]:
    """A packet, earlier by some seconds."""
    if shift:
        assert packet.pts is not None
        assert packet.dts is not None
        assert packet.time_base is not None
        ticks = round(shift / packet.time_base)
        packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
    return packet
