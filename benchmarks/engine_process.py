"""One contender in a process of its own, as at a user's: neither the allocator's history nor threads are shared.

The process says when its first result is there, how much memory it took, and then, whenever it is asked, how long calls
take. Run as a program, this file is that process.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from engine_contenders import PLAIN, import_peer, make
from engine_memory import Peak
from engine_models import Subject
from measure import seconds_of
from remote import Remote, questions, reply
from torch import Tensor

import camfast

BATCHES = 3


def save(subject: Subject, x: Tensor, path: Path) -> None:
    """A model and a batch for :class:`Contender`."""
    torch.save((subject, x), path)


class Contender:
    """A process with one contender, a model and a batch; use it as a context manager.

    Args:
        path: what :func:`save` wrote.
        name: of the contender.
        folder: its own: for its heatmaps, and for what torch.compile keeps; empty, so that all of that is in the time.
        keep_memory: whether its allocator keeps what is freed.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """

    def __init__(self, path: Path, name: str, folder: Path, keep_memory: bool) -> None:
        folder.mkdir(parents=True)
        self.name = name
        self._heatmaps = folder / "heatmaps.pt"
        self._remote = Remote(
            [__file__, str(path), name, str(self._heatmaps), *["--keep-memory"] * keep_memory],
            folder / "errors.txt",
            {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")},
        )
        self.facts: dict[str, Any] = self._remote.answer()
        """``peak_bytes``, by which memory grew at most over three batches; ``first_seconds``; ``plan``; ``notes``."""

    def heatmaps(self) -> Tensor | None:
        """Of the first call; None of a plain forward pass."""
        return None if self.name == PLAIN else torch.load(self._heatmaps)

    def seconds(self, count: int) -> float:
        """The mean time of some calls."""
        return float(self._remote.ask(count))

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self._remote.__exit__()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="what save() wrote")
    parser.add_argument("contender")
    parser.add_argument("heatmaps", help="where those of the first call go")
    parser.add_argument("--keep-memory", action="store_true", help="call camfast.keep_memory() first")
    arguments = parser.parse_args()
    if arguments.keep_memory:
        assert camfast.keep_memory(), "this C library has no such setting"
    subject, x = torch.load(arguments.path, weights_only=False)
    import_peer(arguments.contender)

    peak = Peak(x.device)
    begin = time.perf_counter()
    explain = make(arguments.contender, subject)
    result = explain(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    first = time.perf_counter() - begin
    for _ in range(BATCHES - 1):
        explain(x)
    facts: dict[str, Any] = {"peak_bytes": peak.growth(), "first_seconds": round(first, 3)}
    if isinstance(explain, camfast.GradCAM):
        assert explain.plan is not None  # after its first call
        facts |= {"plan": str(explain.plan), "notes": list(explain.plan.notes)}
    torch.save(torch.as_tensor(result).detach().cpu(), arguments.heatmaps)
    del result
    reply(facts)
    for count in questions():
        reply(seconds_of(lambda: explain(x), int(count)))


if __name__ == "__main__":
    main()
