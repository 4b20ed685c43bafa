"""Frames at another rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

from camfast.video.reader import Frame

Other = TypeVar("Other")


def at_rate(items: Iterable[Frame | Other], rate: Fraction, time_base: Fraction) -> Iterator[Frame | Other]:
    """Frames at a constant rate: at every tick the one that is shown then, others left out, or shown again.

    Args:
        items: frames, in their order; what is none is passed on.
        rate: frames a second.
        time_base: of the frames that come. Those that leave have 1 / ``rate``.
    """
    shown: Frame | None = None
    tick = 0
    any_left = False
    for item in items:
        if not isinstance(item, Frame):
            yield item
            continue
        begins = _first_tick(item.pts * time_base * rate)
        if shown is None:
            tick = begins
        while shown is not None and tick < begins:
            yield replace(shown, pts=tick, duration=1, shown_again=True)
            tick += 1
            any_left = True
        shown = item
    if shown is None:
        return
    length = Fraction(shown.duration) * time_base or 1 / rate
    ends = math.ceil((shown.pts * time_base + length) * rate - Fraction(1, 10))
    if not any_left:
        ends = max(ends, tick + 1)
    for last in range(tick, ends):
        yield replace(shown, pts=last, duration=1, shown_again=True)


def _first_tick(time: Fraction) -> int:
    """The first tick at which a frame is shown from a time on; a little late is in time, as time stamps are rounded."""
    return math.ceil(time - Fraction(1, 4))
