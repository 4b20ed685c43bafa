"""How fast is an exported explainer, in Python and in C++, beside the engine that it was made from?

    python benchmarks/bench_deploy.py                                          # a table on standard output
    python benchmarks/bench_deploy.py --json benchmarks/results/deploy-cpu.json
    python benchmarks/bench_deploy.py --quick                                  # one small model, a few calls

Needs camfast-run: make runner. All explainers are of optimize="inference".
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from deploy_process import COMPILED, CONTENDERS, EAGER, RUNNER_COMPILED, RUNNER_SCRIPT, SCRIPT, Process, command_of
from deploy_tables import deploy_table
from engine_models import build, images
from measure import in_turns, machine, write

import camfast
from camfast import demo
from camfast.quiet import without_notices

MODELS = ("mobilenet_v3_large", "resnet50")  # whose gradient has a closed form, as .pt2 needs it
BATCHES = (1, 8)
QUICK = ("resnet18", (1,), (EAGER, SCRIPT, RUNNER_SCRIPT))  # the compiler takes a minute
RUNNER = Path(__file__).parent.parent / "build/runner/camfast-run"
TURN = 0.3

_begin = time.perf_counter()


def bench(
    model: str, batches: Sequence[int], contenders: Sequence[str], folder: Path, seconds: float, rounds: int
) -> dict[str, Any]:
    """What every contender needs for a model."""
    subject = build(model, torch.device("cpu"))
    files = {SCRIPT: folder / f"{model}.pt", COMPILED: folder / f"{model}.pt2"}
    options: dict[str, Any] = {"optimize": "inference"}
    if COMPILED in contenders:
        say(f"compiling {model}")
        camfast.to_pt2(
            subject.module, files[COMPILED], subject.layer, example=images(2, torch.device("cpu")), **options
        )
    image = folder / f"{model}-image.npy"
    numpy.save(image, images(1, torch.device("cpu")).numpy())
    found: dict[str, dict[str, Any]] = {name: {"milliseconds": {}} for name in contenders}
    for batch in batches:
        say(f"timing {model}, batch {batch}")
        # Weights are packed for the batch that is met first, here as in the engine.
        x = images(batch, torch.device("cpu"))
        explainer = camfast.to_torchscript(subject.module, subject.layer, example=x, **options)
        with without_notices():
            torch.jit.save(explainer, files[SCRIPT])
        with contextlib.ExitStack() as stack:
            processes = {
                name: stack.enter_context(
                    Process(command_of(name, model, files, image, batch, RUNNER), folder / "errors.txt")
                )
                for name in contenders
            }
            calls = {name: process.seconds for name, process in processes.items()}
            for name, times in in_turns(calls, seconds, TURN, rounds).items():
                found[name]["milliseconds"][str(batch)] = times
            for name, process in processes.items():
                found[name]["peak_bytes"] = process.peak_bytes()
                found[name].setdefault("start_seconds", round(process.start_seconds, 3))
    for name, facts in found.items():
        file = files.get({RUNNER_SCRIPT: SCRIPT, RUNNER_COMPILED: COMPILED}.get(name, name))
        facts["file_bytes"] = None if file is None else file.stat().st_size
    return {"model": model, "batches": list(batches), "contenders": found}


def photo_seconds(folder: Path, times: int) -> dict[str, float]:
    """A photo from the start of a command to its end, by the default model: medians, the commands in turn."""
    say("timing the commands")
    explainer = camfast.to_torchscript(camfast.load_model(), overlay=True, optimize="inference")
    with without_notices():
        torch.jit.save(explainer, folder / "photo.pt")
    python = [sys.executable, "-m", "camfast", "image", demo.photo_path(), "-o", folder / "explained"]
    commands = {
        "camfast image": [*python, "--layout", "overlay", "--overwrite"],
        "camfast-run": [RUNNER, folder / "photo.pt", demo.photo_path(), folder / "explained.png"],
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
            samples[name].append(time.perf_counter() - begin)
    return {name: round(statistics.median(taken), 3) for name, taken in samples.items()}


def say(what: str) -> None:
    print(f"{time.perf_counter() - _begin:6.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each in a case (default 10)")
    parser.add_argument("--quick", action="store_true", help="one small model and a few calls, to see that it runs")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if not RUNNER.exists():
        sys.exit(f"{RUNNER} is not there; run: make runner")
    models, batches, contenders, seconds, rounds, times = MODELS, BATCHES, CONTENDERS, arguments.seconds, 7, 5
    if arguments.quick:
        model, batches, contenders = QUICK
        models, seconds, rounds, times = (model,), 0.0, 2, 1
    with tempfile.TemporaryDirectory() as folder:
        cases = [bench(model, batches, contenders, Path(folder), seconds, rounds) for model in models]
        photo = photo_seconds(Path(folder), times)
    say("done")
    results = {
        "benchmark": "deploy",
        "machine": machine(torch.device("cpu")),
        "cases": cases,
        "photo_seconds": photo,
    }
    print(deploy_table(results))
    write(results, arguments.json)


if __name__ == "__main__":
    main()
