"""One contender in a process of its own: how much memory it takes, and when its first result is there."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from engine_contenders import import_peer, make
from engine_memory import Peak
from engine_models import Subject
from measure import KEPT
from torch import Tensor

BATCHES = 3


def save(subject: Subject, x: Tensor, path: Path) -> None:
    """A model and a batch for :func:`in_fresh_process`."""
    torch.save((subject, x), path)


def in_fresh_process(path: Path, name: str, cache: Path) -> dict[str, Any]:
    """Peak memory and time to the first result of a contender, in a process that has done nothing else.

    ``cache`` is where torch.compile keeps its work: an empty folder, so that all of it is in the time.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """
    environment = {key: value for key, value in os.environ.items() if key not in KEPT}  # memory as users get it
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, __file__, str(path), name], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr.strip()[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="what save() wrote")
    parser.add_argument("contender")
    arguments = parser.parse_args()
    subject, x = torch.load(arguments.path, weights_only=False)
    import_peer(arguments.contender)

    peak = Peak(x.device)
    begin = time.perf_counter()
    explain = make(arguments.contender, subject)
    explain(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    first = time.perf_counter() - begin
    for _ in range(BATCHES - 1):
        explain(x)
    print(json.dumps({"peak_bytes": peak.growth(), "first_seconds": round(first, 3)}))


if __name__ == "__main__":
    main()
