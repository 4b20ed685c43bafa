"""Numbers that several metrics are given."""

from __future__ import annotations

from typing import Any


def check_seed(seed: Any) -> None:
    """Raises ValueError for what no generator of random numbers takes."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}; expected a whole number of at least 0")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises ValueError for what is no whole number, or too small a one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}; expected a whole number of at least {least}")
