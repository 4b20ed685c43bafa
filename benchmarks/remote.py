"""A process that answers questions: a line in, an answer out, whatever else a library prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ANSWER = "answer: "  # before what is for the parent


class Remote:
    """The parent's side. Use it as a context manager.

    Args:
        command: the arguments of Python.
        errors: a file for what the process says on standard error.
        environment: on top of this process's own.

    Raises:
        RuntimeError: from an answer, where the process has failed; with the end of what it said.
    """

    def __init__(self, command: Sequence[str], errors: Path, environment: Mapping[str, str] | None = None) -> None:
        self._errors = errors
        with errors.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def ask(self, question: object) -> Any:
        """The answer to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        self._process.wait()
        raise RuntimeError(self._errors.read_text().strip()[-2000:])

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def questions() -> Iterator[str]:
    """In the process: what is asked."""
    for line in sys.stdin:
        yield line.strip()


def reply(what: object) -> None:
    """In the process: an answer."""
    print(ANSWER + json.dumps(what), flush=True)
