"""Errors about files and models: one line that names what is wrong and what to do about it."""

from __future__ import annotations


class CamfastError(Exception):
    """The base of camfast's own errors."""


class InputError(CamfastError, ValueError):
    """An input file cannot be used."""


class OutputError(CamfastError, OSError):
    """An output file cannot be written."""


class ModelError(CamfastError, ValueError):
    """A model or its weights cannot be loaded."""
