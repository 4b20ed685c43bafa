"""Heat from frame to frame: smoothed, and filled in where frames were left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, TypeVar

from camfast.video.heat import Heat, mixed
from camfast.video.moment import Moment

Between = Literal["interpolate", "hold"]
BETWEEN: tuple[Between, ...] = ("interpolate", "hold")

Other = TypeVar("Other")


def warm_up(share: float, stride: int) -> int:
    """How many frames before one are to be explained, so that its heat is as if all before had been, to 1 in 100."""
    remembered = 0 if share == 0 else math.ceil(math.log(0.01) / math.log(share))
    return remembered + stride - 1  # the heat of a frame between explained ones is also that of the one before


def smoothed(items: Iterable[Moment | Other], share: float) -> Iterator[Moment | Other]:
    """The heat of explained frames as an exponential average, so that it does not flicker.

    Maps and their ranges are averaged. A map that is not finite, or of another size, stays as it is, and the average
    begins anew after it.

    Args:
        items: moments; what is none is passed on.
        share: of what was before, 0 (none) to below 1.
    """
    before: Heat | None = None
    for item in items:
        if isinstance(item, Moment) and item.heat is not None:
            heat = item.heat
            if before is not None and share > 0:
                heat = mixed(heat, before, share)
            before = heat if heat.finite else None
            yield replace(item, heat=heat)
        else:
            yield item


def filled_in(items: Iterable[Moment | Other], between: Between) -> Iterator[Moment | Other]:
    """The same moments with heat and classes each: of the last one explained, its heat on the way to the next one's.

    Args:
        items: moments; what is none is passed on at once.
        between: ``"interpolate"``, or ``"hold"`` for the heat of the last one as it is.
    """
    waiting: list[Moment] = []
    last: Moment | None = None
    for item in items:
        if not isinstance(item, Moment):
            yield item
        elif item.heat is not None:
            yield from (_between(last, moment, item) for moment in waiting)
            waiting.clear()
            yield item
            last = item
        elif last is not None and between == "hold":
            yield _between(last, item, None)
        else:
            waiting.append(item)
    yield from (_between(last, moment, None) for moment in waiting)


def _between(last: Moment | None, moment: Moment, following: Moment | None) -> Moment:
    known = last or following
    if known is None or known.heat is None:
        return moment
    heat = known.heat
    if last is not None and following is not None and following.heat is not None:
        span = following.frame.pts - last.frame.pts
        heat = mixed(heat, following.heat, (moment.frame.pts - last.frame.pts) / span)
    return replace(moment, heat=heat, classes=known.classes)
