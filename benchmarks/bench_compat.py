"""How much faster is code that was written for a peer, when nothing but its import is changed?

    python benchmarks/bench_compat.py                                          # a table on standard output
    python benchmarks/bench_compat.py --json benchmarks/results/compat-cpu.json
    python benchmarks/bench_compat.py --device cuda --json benchmarks/results/compat-h200.json
    python benchmarks/bench_compat.py --cases captum.LayerGradCam:resnet18

The code is in compat_contenders.py, once for both: as the peers' documentation has it, with what the peer returns as
the end. Both have a process of their own, and they are timed in turn. Whether the results are the same is what
tests/test_compat_*.py say.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from compat_contenders import BY_NAME, CASES, DROP_IN, PEER, Case
from compat_process import contender
from compat_tables import compat_table
from engine_models import SIZE
from measure import in_turns, machine, write

TURN, PAUSE = 0.3, 0.2

_begin = time.perf_counter()


def bench(case: Case, device: torch.device, seconds: float) -> dict[str, Any]:
    """What the peer and the drop-in need for a case."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        both = {
            name: processes.enter_context(contender(case, name, device, Path(folder, name))) for name in (PEER, DROP_IN)
        }
        say(f"timing {case.name}, batch {case.batch}")
        return {
            "peer": case.peer,
            "kind": case.kind,
            "model": case.model,
            "batch": case.batch,
            "size": [SIZE, SIZE],
            **{
                fact: {name: each.facts[fact] for name, each in both.items()}
                for fact in ("peak_bytes", "first_seconds")
            },
            "milliseconds": in_turns({name: each.seconds for name, each in both.items()}, seconds, TURN, pause=PAUSE),
        }


def say(what: str) -> None:
    print(f"{time.perf_counter() - _begin:6.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each of the two in a case (default 10)")
    parser.add_argument("--cases", nargs="+", choices=BY_NAME, default=[c.name for c in CASES], metavar="NAME")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    cases = [bench(BY_NAME[name], device, arguments.seconds) for name in arguments.cases]
    say("done")
    results = {"benchmark": "compat", "machine": machine(device), "cases": cases}
    print(compat_table(results))
    write(results, arguments.json)


if __name__ == "__main__":
    main()
