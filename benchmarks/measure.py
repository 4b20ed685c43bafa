"""Timing contenders side by side, and what machine they ran on."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import timer

import camfast

# Long enough that the clock does not matter, short enough that contenders meet the same machine.
TURN_SECONDS = 0.02
LEAST_ROUNDS = 7
WARM_UP = 2
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "grad-cam", "torchcam", "captum")


def interleaved(contenders: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, dict[str, float]]:
    """As :func:`in_turns`, for calls of this process.

    Args:
        contenders: what to call, by name.
        seconds: about how long to spend on each.
    """
    for call in contenders.values():
        call()  # compiles, allocates
    return in_turns({name: partial(seconds_of, call) for name, call in contenders.items()}, seconds)


def in_turns(
    contenders: Mapping[str, Callable[[int], float]],
    seconds: float,
    turn: float = TURN_SECONDS,
    least_rounds: int = LEAST_ROUNDS,
    pause: float = 0.0,
) -> dict[str, dict[str, float]]:
    """Milliseconds of a call of each contender: median and quartiles over rounds in which all take their turn.

    Every round has its own order, so that what one leaves behind (in caches, in the allocator) meets all others alike.

    Args:
        contenders: what tells the seconds of a call from some calls, by name.
        seconds: about how long to spend on each.
        turn: how long a turn is, for calls that are shorter.
        least_rounds: how many rounds there are at least.
        pause: seconds before each turn, where contenders are processes: threads that have done their work (of OpenBLAS,
            say) go on spinning for a while, on the cores of the next one.
    """
    turns = {name: max(1, round(turn / max(call(1), 1e-7))) for name, call in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds * len(contenders)
    shuffled, order = random.Random(0), list(contenders)
    while time.perf_counter() < end or len(next(iter(samples.values()))) < least_rounds:
        shuffled.shuffle(order)
        for name in order:
            time.sleep(pause)
            samples[name].append(1e3 * contenders[name](turns[name]))
    return {name: _summary(times) for name, times in samples.items()}


def seconds_of(call: Callable[[], Any], count: int) -> float:
    """The mean of some calls; where they are short, after a few that bring back what the others took out of caches."""
    for _ in range(WARM_UP if count > 1 else 0):
        call()
    return timeit.Timer(call, timer=timer).timeit(count) / count


def _summary(times: list[float]) -> dict[str, float]:
    lower, median, upper = statistics.quantiles(times, n=4)
    return {"median": round(median, 5), "q25": round(lower, 5), "q75": round(upper, 5), "rounds": len(times)}


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "camfast": camfast.__version__,
        "kernels": str(camfast.backends()[device.type]),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def write(results: dict[str, Any], path: str | None) -> None:
    """As JSON, to a file where one is named."""
    if path is not None:
        Path(path).write_text(json.dumps(results, indent=1) + "\n")
        print(f"written to {path}", file=sys.stderr)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
