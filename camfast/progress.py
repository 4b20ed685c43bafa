"""Progress of long work, on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Counts up to a total, which may be unknown.

    >>> with Progress("video.mp4", total=250, unit="frames") as progress:  # doctest: +SKIP
    ...     progress.advance(8)
    """

    def __init__(self, label: str, total: int | None, unit: str, *, quiet: bool = False, every: float = 10.0) -> None:
        self._label, self._total, self._unit, self._every = label, total, unit, every
        self._quiet = quiet
        self._plain = not sys.stderr.isatty()
        self._bar = tqdm(desc=label, total=total, unit=f" {unit}", file=sys.stderr, disable=quiet or self._plain)
        self._done = 0
        self._begun = self._said = time.monotonic()

    def advance(self, count: int, status: Callable[[], str] | None = None) -> None:
        """Counts on; ``status`` tells what is shown beside the rate, and is asked about once a second."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if not self._plain:
            if status is not None and now - self._said >= 1:
                self._said = now
                self._bar.set_postfix_str(status(), refresh=False)
        elif not self._quiet and now - self._said >= self._every:
            self._said = now
            print(self._line(now, status), file=sys.stderr)

    def _line(self, now: float, status: Callable[[], str] | None) -> str:
        rate = self._done / (now - self._begun)
        parts = [f"{self._label}: {self._done}{f' of {self._total}' if self._total else ''} {self._unit}"]
        parts.append(f"{rate:.1f} {self._unit}/s")
        if self._total and rate:
            parts.append(f"{max(self._total - self._done, 0) / rate:.0f} s left")
        return "; ".join([*parts, *([status()] if status is not None else [])])

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
