"""A frame of a video, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from camfast.video.heat import Heat
from camfast.video.reader import Frame


@dataclass(frozen=True)
class ClassScore:
    """A class, and how probable the model finds it."""

    index: int
    name: str
    probability: float

    def __str__(self) -> str:
        return f"{self.name} {self.probability:.0%}"


class Skipped:
    """A frame that is only counted, because an earlier run has written it."""


@dataclass(frozen=True)
class Moment:
    """A frame on its way through the pipeline."""

    frame: Frame
    index: int
    """Its number, from 0."""
    seen: Tensor | None
    """What the model sees of it, uint8 RGB [3, crop, crop]; None where it is not explained, or has been."""
    heat: Heat | None = None
    """None where it is not explained, or not yet."""
    classes: tuple[ClassScore, ...] = ()
    """The explained class, then the most probable others."""
