"""What goes to the encoder, and what is recorded of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av

from camfast.video.artist import Artist
from camfast.video.leftover import Leftover
from camfast.video.moment import Moment, Skipped
from camfast.video.records import Record
from camfast.video.writer import VideoWriter


class Output:
    """Draws and writes what comes out of a pipeline.

    Args:
        writer, artist, records: what does so.
        time_base: of the moments.
        left: what an earlier run has written of the same; taken over for as many frames as it has.
    """

    def __init__(
        self,
        writer: VideoWriter,
        artist: Artist,
        records: Sequence[Record],
        time_base: Fraction,
        left: Leftover | None = None,
    ) -> None:
        self._writer = writer
        self._artist = artist
        self._records = records
        self._time_base = time_base
        self._left: Iterator[av.Packet[Any]] = iter(()) if left is None else left.packets()
        self.written = 0
        """Frames so far."""
        self.taken_over = 0
        """How many of them an earlier run has written."""
        self.classes: Counter[str] = Counter()
        """In how many each class was explained."""

    def write(self, item: Moment | Skipped | av.Packet[Any]) -> None:
        """The next moment, or a packet of another stream."""
        if not isinstance(item, (Moment, Skipped)):
            self._writer.copy(item)
            return
        self.written += 1
        before = next(self._left, None)
        if before is not None:
            self.taken_over += 1
            self._writer.take_over(before)
        elif isinstance(item, Moment):
            self._draw(item)

    def _draw(self, moment: Moment) -> None:
        picture = self._artist(moment)
        for record in self._records:
            record.add(moment, moment.frame.pts * self._time_base, picture)
        self._writer.write(picture, moment.frame.pts, moment.frame.duration)
        self.classes.update(score.name for score in moment.classes[:1])
