"""What a file says of its picture before that is read: how many frames there are, and when they end."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from camfast.video.sources import is_live, riff_is_whole

AVI = "avi"
"""The name of a format whose time is counted in slots for frames, of which not each has one."""


@dataclass(frozen=True)
class Announced:
    """How many frames, and until when."""

    frames: int | None
    """None where the file does not say."""
    end: Fraction | None
    """In seconds; None where the file does not say."""
    tolerance: Fraction
    """How exact that is, in seconds."""
    in_slots: bool = False
    """Whether these are slots, of which the last frame may fill many."""

    def missing(self, decoded: int | None, end: Fraction, longest: Fraction) -> str | None:
        """What there is less than announced.

        Args:
            decoded: how many frames there were; None where not all were wanted.
            end: of the last one, in seconds.
            longest: the most seconds from a frame to the next.
        """
        tolerance = max(self.tolerance, longest) if self.in_slots else self.tolerance
        if self.end is None or self.end - end <= tolerance:
            return None
        if self.frames is not None and decoded is not None:
            return f"{self.frames - decoded} of {self.frames} frames are missing"
        return f"the last {float(self.end - end):.2f} s are missing"


def announced_by(source: str | Path, container: Any, rate: Fraction, time_base: Fraction) -> Announced:
    """What an open container says of its picture, of so many frames a second in so many parts of a second.

    Frames are not counted: an edit list may leave some out on purpose.
    """
    stream = container.streams.video[0]
    frames, exact = stream.frames or None, Fraction(3, 2) / rate
    if container.format.name == AVI:
        index = stream.index_entries
        # Where the end is cut off, the index is that of what was read so far.
        if not is_live(source) and riff_is_whole(Path(source)) and len(index) > 0:
            return Announced(len(index), (index[len(index) - 1].timestamp + 1) * time_base, exact)
        if frames is not None:  # the duration is made to fit the size of a file that is cut
            return Announced(None, frames * time_base, exact, in_slots=True)
        return Announced(None, *_end(container, stream, exact, time_base), in_slots=True)
    return Announced(frames, *_end(container, stream, exact, time_base))


def _end(container: Any, stream: Any, exact: Fraction, time_base: Fraction) -> tuple[Fraction | None, Fraction]:
    """When the picture ends, and how exact that is."""
    if stream.duration is not None:
        return (stream.duration + (stream.start_time or 0)) * time_base, exact
    hours, minutes, seconds = (stream.metadata.get("DURATION") or "::").split(":")  # as Matroska has it
    if hours and minutes and seconds:
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds), Fraction(1, 2)
    if container.duration is not None and len(container.streams) == 1:
        start = container.start_time or 0
        return Fraction(container.duration + start, av.time_base), Fraction(1, 2)
    return None, Fraction(0)
