"""What is told of an explained video."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_SHOWN = 5
"""Classes that are told, of many."""


@dataclass(frozen=True)
class VideoSummary:
    """What was done to one video."""

    source: str
    output: Path
    frames: int
    seconds: float
    classes: dict[str, int]
    """How many frames each class was explained in, the most frequent first; but for those that were taken over."""
    kernels: str
    damage: str | None
    """What was wrong with the source; None where it was whole."""
    left_out: list[str]
    """Streams of the source that the output's container does not take."""
    encoded_anew: list[str]
    """Sound that it takes in another form only."""
    busy: dict[str, float]
    """The share of the time in which each stage worked (read, model, write); the largest is the bottleneck."""
    notes: list[str]
    """What the picture lost: depth, alpha."""
    decoder: str = "cpu"
    """Where frames were decoded, and stayed until they were encoded: the CPU, or a device."""
    encoder: str = ""
    """FFmpeg's name of what encoded them."""
    decoder_refused: str | None = None
    """Why the model's device did not decode, where that was tried."""
    interrupted: bool = False
    """Whether it was stopped before the end of the source."""
    taken_over: int = 0
    """How many frames a run that was killed had written already."""

    @property
    def frames_per_second(self) -> float:
        return (self.frames - self.taken_over) / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "output": str(self.output), "frames_per_second": round(self.frames_per_second, 2)}

    def __str__(self) -> str:
        shown = ", ".join(f"{name} ({count})" for name, count in itertools.islice(self.classes.items(), _SHOWN))
        shown += f", {len(self.classes) - _SHOWN} more" if len(self.classes) > _SHOWN else ""
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        frames += f", of which {self.taken_over} were there already," if self.taken_over else ""
        return (
            f"{self.output}: {frames} in {self.seconds:.1f} s, {self.frames_per_second:.1f} frames/s\n"
            f"  classes (frames): {shown}\n"
            f"  busy: {shares(self.busy)}\n"
            f"  kernels: {self.kernels}{self._where()}"
        )

    def _where(self) -> str:
        if self.decoder_refused is None and self.decoder == "cpu":
            return ""
        reason = "" if self.decoder_refused is None else f" ({self.decoder_refused})"
        return f"\n  decoded on: {self.decoder}{reason}, encoded by {self.encoder}"


def shares(busy: dict[str, float]) -> str:
    """How busy each stage is, for people."""
    return ", ".join(f"{name} {share:.0%}" for name, share in busy.items())
