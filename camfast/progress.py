"""Progress of long work, on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Counts up to a total, which may be unknown.

    >>> with Progress("video.mp4", total=250, unit="frames") as progress:  # doctest: +SKIP
    ...     progress.advance(8)
    """

    def __init__(self, label: str, total: int | None, unit: str, *, quiet: bool = False, every: float = 10.0) -> None:
        self._label, self._total, self._unit, self._every = label, total, unit, every
        self._plain = not quiet and not sys.stderr.isatty()
        self._bar = tqdm(desc=label, total=total, unit=f" {unit}", file=sys.stderr, disable=quiet or self._plain)
        self._done = 0
        self._said = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        self._bar.update(count)
        if self._plain and time.monotonic() - self._said >= self._every:
            self._said = time.monotonic()
            of_total = f" of {self._total}" if self._total else ""
            print(f"{self._label}: {self._done}{of_total} {self._unit}", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
