"""Checks of numbers that several methods take."""

from __future__ import annotations

from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}; expected a whole number of at least {least}")
    return value
