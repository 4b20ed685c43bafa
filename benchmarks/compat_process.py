"""One contender of benchmarks/bench_compat.py in a process of its own: memory and time are its alone.

Run as a program, this file is that process.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from compat_contenders import BY_NAME, DROP_IN, PEER, Case
from engine_memory import Peak
from engine_models import build, images
from measure import seconds_of
from remote import Remote, questions, reply


class Contender:
    """A process with one contender; use it as a context manager.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """

    def __init__(self, case: Case, name: str, device: torch.device, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._remote = Remote([__file__, case.name, name, str(device)], folder / "errors.txt")
        self.facts: dict[str, Any] = self._remote.answer()
        """``peak_bytes``, by which memory grew at most over the first call, and ``first_seconds`` of that."""

    def seconds(self, count: int) -> float:
        """The mean time of some calls."""
        return float(self._remote.ask(count))

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self._remote.__exit__()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=BY_NAME)
    parser.add_argument("contender", choices=(PEER, DROP_IN))
    parser.add_argument("device")
    arguments = parser.parse_args()
    case, device = BY_NAME[arguments.case], torch.device(arguments.device)
    model, x = build(case.model, device).module, images(case.batch, device)
    classes = [(97 * i) % 1000 for i in range(case.batch)]
    warnings.simplefilter("ignore")
    explain = case.make(arguments.contender, model, classes)
    peak = Peak(device)
    begin = time.perf_counter()
    explain(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    reply({"peak_bytes": peak.growth(), "first_seconds": round(time.perf_counter() - begin, 3)})
    for count in questions():
        reply(seconds_of(lambda: explain(x), int(count)))


if __name__ == "__main__":
    main()
