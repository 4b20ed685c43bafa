"""Files in and out: inputs are told apart early, outputs appear under their name only when they are whole."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from camfast.errors import InputError, OutputError


def check_input(path: Path) -> None:
    """Raises InputError for a file that is missing, a directory, unreadable or empty."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory; expected a file")
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: permission denied")


def check_output(path: Path, overwrite: bool) -> None:
    """Makes the folder of an output, and raises OutputError where the file could not be written there."""
    if path.is_dir():
        raise OutputError(f"{path} is a directory; expected the name of a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; give --overwrite (overwrite=True) to replace it")
    make_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Raises OutputError where the folder cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise OutputError(f"folder {folder} cannot be written to: permission denied")


def remove_leftovers(folder: Path, stem: str) -> None:
    """Removes what killed processes have left of outputs that :func:`whole_file` writes.

    Args:
        stem: of their names, as a regular expression.
    """
    pattern = re.compile(rf"\.{stem}\.(\d+)\.partial")
    for path in folder.iterdir():
        found = pattern.match(path.name)
        if found is None or _is_running(int(found[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # somebody else's, or no process at all
    return True


@contextmanager
def whole_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its name when the block ends well and vanishes when it does not.

    Raises:
        OutputError: the file exists and ``overwrite`` is False, or cannot be written.
    """
    check_output(path, overwrite)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error, (InputError, OutputError)) or error.errno is None:
            raise
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
