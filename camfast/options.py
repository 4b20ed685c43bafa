"""Options of methods: which there are, and which values they may have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from camfast.suggest import did_you_mean


def refuse_unknown(method: type, given: Mapping[str, Any]) -> None:
    """Raises TypeError for options that no constructor of a method takes, with the closest that there is."""
    for name in given:
        known = _options_of(method)
        raise TypeError(f"{method.__name__} has no option {name!r}; {did_you_mean(name, known, show=len(known))}")


def _options_of(method: type) -> list[str]:
    """The names of all that its constructors take, but for the model."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = {
        name: None
        for owner in reversed(method.__mro__)
        if "__init__" in vars(owner)
        for name, parameter in inspect.signature(owner.__init__).parameters.items()  # type: ignore[misc]
        if parameter.kind in kinds and name not in ("self", "model")
    }
    return list(found)


def whole_signature(method: type) -> inspect.Signature:
    """What a method takes: its constructor's parameters, and those that its ``**options`` hand on to its parents.

    Editors and ``help`` show it, where they would show ``**options``.
    """
    found: dict[str, inspect.Parameter] = {}
    rest: list[inspect.Parameter] = []
    by_name = False  # whether what parents take by position has to be named
    for owner in method.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        _, *parameters = inspect.signature(owner.__init__).parameters.values()  # type: ignore[misc]
        rest = [each for each in parameters if each.kind is each.VAR_KEYWORD and each.name != "unknown"]
        for each in parameters:
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                found.setdefault(each.name, each.replace(kind=each.KEYWORD_ONLY) if by_name else each)
        kinds = {each.kind for each in parameters}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
        by_name = by_name or inspect.Parameter.VAR_POSITIONAL not in kinds
    return inspect.Signature([*sorted(found.values(), key=lambda each: each.kind), *rest])


def check_flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}; expected True or False")
    return value


def check_count(name: str, value: Any) -> int:
    """A whole number of at least 1.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}; expected a whole number of at least 1")
    return value


def check_seed(seed: Any) -> int:
    """What random numbers may begin with.

    Raises:
        ValueError: it is no whole number from 0 to 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}; expected a whole number of at least 0, and below 2**63")
    return seed


def check_deviation(std: Any) -> float:
    """A standard deviation.

    Raises:
        ValueError: it is no number of at least 0.
    """
    if isinstance(std, bool) or not isinstance(std, (int, float)) or not std >= 0:
        raise ValueError(f"std={std!r}; expected a standard deviation of at least 0")
    return float(std)
