"""One contender of benchmarks/bench_compat.py in a process of its own: memory and time are its alone.

Run as a program, this file is that process.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from compat_contenders import BY_NAME, DROP_IN, PEER, Case
from engine_models import build, images
from timed_process import Timed, serve


def contender(case: Case, name: str, device: torch.device, folder: Path) -> Timed:
    """The process of one contender."""
    return Timed([__file__, case.name, name, str(device)], folder)


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
    serve(explain, x)


if __name__ == "__main__":
    main()
