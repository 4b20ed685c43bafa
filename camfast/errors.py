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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or on the host."""
    # What the allocator of the host raises is a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )
