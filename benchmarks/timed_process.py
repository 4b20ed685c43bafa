"""A contender in a process of its own that tells its memory and its time: both sides."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from engine_memory import Peak
from measure import seconds_of
from remote import Remote, questions, reply
from torch import Tensor


class Timed:
    """The parent's side; use it as a context manager.

    Args:
        command: the arguments of Python, for a program that ends in :func:`serve`.
        folder: of its own, for what it says on standard error.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self._remote = Remote(command, folder / "errors.txt")
        self.facts: dict[str, Any] = self._remote.answer()
        """``peak_bytes``, by which memory grew at most over the first call, and ``first_seconds`` of that."""

    def seconds(self, count: int) -> float:
        """The mean time of some calls."""
        return float(self._remote.ask(count))

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None:
        self._remote.__exit__()


def serve(explain: Callable[[Tensor], Any], x: Tensor) -> None:
    """The process's side: a first call, and then as many as it is asked for."""
    peak = Peak(x.device)
    begin = time.perf_counter()
    explain(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    reply({"peak_bytes": peak.growth(), "first_seconds": round(time.perf_counter() - begin, 3)})
    for count in questions():
        reply(seconds_of(lambda: explain(x), int(count)))
