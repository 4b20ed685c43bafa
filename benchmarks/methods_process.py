"""One contender of benchmarks/bench_methods.py in a process of its own: memory and time are its alone.

Run as a program, this file is that process.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from methods_contenders import BY_NAME, Method, make
from timed_process import Timed, serve

SIZE = 224


def contender(row: Method, name: str, device: torch.device, folder: Path) -> Timed:
    """The process of one contender."""
    return Timed([__file__, row.name, name, str(device)], folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=BY_NAME)
    parser.add_argument("contender")
    parser.add_argument("device")
    arguments = parser.parse_args()
    row = BY_NAME[arguments.method]
    torch.manual_seed(0)
    model = getattr(torchvision.models, row.model)(weights=None).eval().to(arguments.device)
    x = torch.randn(row.batch, 3, SIZE, SIZE, device=arguments.device)
    classes = [(97 * i) % 1000 for i in range(row.batch)]
    explain = make(row, arguments.contender, model, classes)
    serve(explain, x)


if __name__ == "__main__":
    main()
