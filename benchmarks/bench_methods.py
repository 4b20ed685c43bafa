"""What does every method cost, by camfast and by each peer that has it?

    python benchmarks/bench_methods.py                                          # a table on standard output
    python benchmarks/bench_methods.py --json benchmarks/results/methods-cpu.json
    python benchmarks/bench_methods.py --device cuda --json benchmarks/results/methods-h200.json
    python benchmarks/bench_methods.py --methods scorecam ablationcam

ResNet-18 at 224 × 224 (ViT-B/16 for LeGrad), classes given, heatmaps of the images' size for the whole batch. camfast
runs each method as it is by default, and where it may with optimize="inference", and in bfloat16 too; the peers run the
model eagerly in float32. Every contender has a process of its own, and they are timed in turn. Whether the heatmaps are
the same is what the tests say, method by method. With --json, methods that were not measured keep their rows of that
file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import in_turns, machine, write
from methods_contenders import BY_NAME, ROWS, Method
from methods_process import SIZE, contender
from methods_tables import methods_table

TURN, PAUSE = 0.3, 0.2
LEAST_ROUNDS = 3
"""Of methods that take seconds."""

_begin = time.perf_counter()


def bench(row: Method, device: torch.device, seconds: float) -> dict[str, Any]:
    """What every contender needs for a method."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        contenders = {
            name: processes.enter_context(contender(row, name, device, Path(folder, name.replace(" ", "-"))))
            for name in row.contenders
        }
        say(f"{row.name}: timing {', '.join(contenders)}")
        slow = max(each.facts["first_seconds"] for each in contenders.values()) > 1
        calls = {name: each.seconds for name, each in contenders.items()}
        return {
            "method": row.name,
            "model": row.model,
            "layers": list(row.layers),
            "batch": row.batch,
            "size": [SIZE, SIZE],
            "peak_bytes": {name: each.facts["peak_bytes"] for name, each in contenders.items()},
            "milliseconds": in_turns(calls, seconds, TURN, LEAST_ROUNDS if slow else 7, PAUSE),
        }


def with_others(results: dict[str, Any], path: str | None) -> dict[str, Any]:
    """Also the methods of an earlier run that were not measured now; those of now say their version of PyTorch."""
    if path is None or not Path(path).exists():
        return results
    earlier = json.loads(Path(path).read_text())
    measured = [{**case, "torch": results["machine"]["torch"]} for case in results["cases"]]
    known = {case["method"]: case for case in [*earlier["cases"], *measured]}
    return {**earlier, "cases": [known[row.name] for row in ROWS if row.name in known]}


def say(what: str) -> None:
    print(f"{time.perf_counter() - _begin:6.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each contender of a method (default 2)")
    parser.add_argument("--methods", nargs="+", choices=BY_NAME, default=[row.name for row in ROWS], metavar="NAME")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    cases = [bench(BY_NAME[name], device, arguments.seconds) for name in arguments.methods]
    say("done")
    results: dict[str, Any] = {"benchmark": "methods", "machine": machine(device), "cases": cases}
    if len(cases) < len(ROWS):
        results = with_others(results, arguments.json)
    print(methods_table(results))
    write(results, arguments.json)


if __name__ == "__main__":
    main()
