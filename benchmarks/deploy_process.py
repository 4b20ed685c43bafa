"""One contender of benchmarks/bench_deploy.py in a process of its own, started as a user starts it.

Run as a program, this file is such a process in Python; the others are camfast-run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from measure import seconds_of

EAGER, SCRIPT, COMPILED = "eager engine", "TorchScript", "AOTInductor"
RUNNER_SCRIPT, RUNNER_COMPILED = "camfast-run, TorchScript", "camfast-run, AOTInductor"
CONTENDERS = (EAGER, SCRIPT, COMPILED, RUNNER_SCRIPT, RUNNER_COMPILED)


class Process:
    """The parent's side; use it as a context manager.

    Args:
        command: a program that puts out a line after its first result, and then, for every number in, mean seconds.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """

    def __init__(self, command: Sequence[object], errors: Path) -> None:
        self._errors = errors
        begin = time.perf_counter()
        with errors.open("w") as file:
            self._process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )
        self._line()
        self.start_seconds = time.perf_counter() - begin
        """From the start of the process to its first heatmap."""

    def seconds(self, count: int) -> float:
        """The mean time of some calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(self._line())

    def peak_bytes(self) -> int:
        """The most memory that the process ever had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(self._errors.read_text().strip()[-2000:])
        return line.strip()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def command_of(name: str, model: str, files: dict[str, Path], image: Path, batch: int, runner: Path) -> list[object]:
    """The command of a contender.

    Args:
        files: explainers by contender in Python.
        image: a .npy of one image that is ready for the model.
    """
    if name in (RUNNER_SCRIPT, RUNNER_COMPILED):
        file = files[SCRIPT if name == RUNNER_SCRIPT else COMPILED]
        return [runner, file, image, file.with_suffix(".npy"), "--time", batch]
    return [sys.executable, __file__, name, model, files.get(name, ""), image, batch]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=(EAGER, SCRIPT, COMPILED))
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("image")
    parser.add_argument("batch", type=int)
    arguments = parser.parse_args()

    import torch

    import camfast

    image = torch.from_numpy(numpy.load(arguments.image))
    explain: Any
    if arguments.name == EAGER:
        from engine_models import build

        subject = build(arguments.model, torch.device("cpu"))
        cam = camfast.GradCAM(subject.module, subject.layer, optimize="inference")
        explain = cam.explain
    else:
        explain = camfast.load_explainer(arguments.file)
    batch = image.repeat(arguments.batch, 1, 1, 1)
    explain(batch)
    print("ready", flush=True)
    for line in sys.stdin:
        print(seconds_of(lambda: explain(batch), int(line)), flush=True)


if __name__ == "__main__":
    main()
