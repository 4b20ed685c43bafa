"""Checks of the classes that targets are given."""

from __future__ import annotations

import operator
from typing import Any


def set_category(target: Any, category: Any) -> None:
    """Gives a frozen target its class, checked."""
    object.__setattr__(target, "category", class_index(target, "category", category))


def set_categories(target: Any, name: str, categories: Any) -> None:
    """Gives a frozen target several classes, checked, as a tuple."""
    if isinstance(categories, (str, bytes)) or not hasattr(categories, "__iter__"):
        raise ValueError(f"{name}={categories!r} of {type(target).__name__}; expected a sequence of classes")
    indices = tuple(class_index(target, f"{name}[{i}]", category) for i, category in enumerate(categories))
    if not indices:
        raise ValueError(f"{name} of {type(target).__name__} is empty; expected at least one class")
    object.__setattr__(target, name, indices)


def class_index(target: Any, name: str, value: Any) -> int:
    """A class that a target was given.

    Raises:
        ValueError: no whole number of at least 0.
    """
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index < 2**63:
        raise ValueError(f"{name}={value!r} of {type(target).__name__}; expected a class index of at least 0")
    return index
