"""A video while it is written: under another name, by one process alone, to be gone on from after a kill."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from camfast.errors import InputError, OutputError
from camfast.files import check_output


class Partial:
    """A temporary path beside ``output``, which takes its name when the block ends well, and vanishes when it raises.

    Only a kill leaves it, with a file that says how it was made; and an error while that is gone on from leaves it as
    it was. Both are hidden, and named after the output, so that the next call finds them.

    Args:
        output: the name at the end.
        overwrite: whether that may exist.
        made_by: what the result depends on; what is left of a run that was killed is only gone on from where it is the
            same.
        resume: go on from there. Without, it is written over.

    Raises:
        OutputError: the output exists and ``overwrite`` is False, is being written by another process, or cannot be;
            or what is left cannot be gone on from.
    """

    def __init__(self, output: Path, overwrite: bool, made_by: Mapping[str, Any], resume: bool = False) -> None:
        self._output = output
        self._overwrite = overwrite
        self._made_by = json.loads(json.dumps(made_by, default=str))
        self._resume = resume
        self.path = output.with_name(f".{output.stem}.partial{output.suffix}")
        self.left = output.with_name(f".{output.stem}.left{output.suffix}")
        """What an earlier run has left, if that is gone on from."""
        self._says = output.with_name(f".{output.stem}.partial.json")
        self._lock: IO[str] | None = None

    @property
    def goes_on(self) -> bool:
        """Whether there is something to go on from."""
        return self.left.exists()

    def __enter__(self) -> Partial:
        check_output(self._output, self._overwrite)
        try:
            self._lock = self._says.open("a+", encoding="utf-8")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_what_is_left()
            self._lock.truncate(0)
            self._lock.write(json.dumps(self._made_by))
            self._lock.flush()
        except BlockingIOError:
            self._unlock()
            raise OutputError(f"{self._output} is being written by another process") from None
        except OSError as error:
            self._unlock()
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{self._output} cannot be written: {error.strerror}") from error
        return self

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _take_what_is_left(self) -> None:
        assert self._lock is not None
        if not self._resume:
            self.left.unlink(missing_ok=True)
            return
        self._lock.seek(0)
        said = self._lock.read()
        # A run that was killed while it took over what an earlier one had left may have less than that.
        found = [path for path in (self.path, self.left) if path.exists()]
        if not found:
            return
        before = json.loads(said) if said else {}
        differs = [name for name in self._made_by if before.get(name) != self._made_by[name]]
        if differs:
            raise OutputError(
                f"{self._output} cannot be gone on from: {self._difference(differs[0], before)}; leave out --resume "
                "(resume=True) to begin anew"
            )
        max(found, key=lambda path: path.stat().st_size).replace(self.left)

    def _difference(self, name: str, before: Mapping[str, Any]) -> str:
        was, now = before.get(name), self._made_by[name]
        if any(isinstance(value, (list, dict)) for value in (was, now)):
            return f"{name} is not what it was"
        return f"{name} was {was!r}, and is {now!r}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                check_output(self._output, self._overwrite)
                os.replace(self.path, self._output)
        except OSError as problem:
            if isinstance(problem, OutputError):
                raise
            raise OutputError(f"{self._output} cannot be written: {problem.strerror}") from problem
        finally:
            self.path.unlink(missing_ok=True)
            if error is not None and self.goes_on:
                self.left.replace(self.path)
            else:
                self.left.unlink(missing_ok=True)
                self._says.unlink(missing_ok=True)
            self._unlock()
        if isinstance(error, OSError) and not isinstance(error, (InputError, OutputError)) and error.errno is not None:
            raise OutputError(f"{self._output} cannot be written: {error.strerror}") from error
