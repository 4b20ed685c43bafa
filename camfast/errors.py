"""Errors about files and models: one line that names what is wrong and what to do about it."""

from __future__ import annotations

import torch


class CamfastError(Exception):
    """The base of camfast's own errors."""


class InputError(CamfastError, ValueError):
    """An input file cannot be used."""


class OutputError(CamfastError, OSError):
    """An output file cannot be written."""


class ModelError(CamfastError, ValueError):
    """A model or its weights cannot be loaded."""


def first_line(error: BaseException) -> str:
    """What happened, and the first line of what is said about it."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or on the host."""
    # What the allocator of the host raises is a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )
