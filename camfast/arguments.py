"""What the command line's options are made of: text to values, with errors in words; options that commands share."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from camfast.models import BUILT_IN


def add_model(group: argparse._ArgumentGroup) -> None:
    """``--model``: what :func:`camfast.load_model` takes."""
    group.add_argument(
        "--model",
        default=BUILT_IN,
        help=f"{BUILT_IN}, any torchvision classification model, or timm:NAME (default: {BUILT_IN})",
    )


def add_weights(group: argparse._ArgumentGroup) -> None:
    """``--weights``: what :func:`camfast.load_model` takes."""
    group.add_argument(
        "--weights",
        default="DEFAULT",
        help="DEFAULT, a torchvision weights name such as IMAGENET1K_V1, a local checkpoint, or random",
    )


def path(text: str) -> Path:
    """The name of a file or folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def whole_number(text: str) -> int:
    """1, 2, 3, ..."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def fraction(text: str) -> float:
    """0 to 1."""
    return _number(text, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def share(text: str) -> float:
    """0 to below 1."""
    return _number(text, "a number from 0 to below 1", lambda value: 0 <= value < 1)


def seconds(text: str) -> float:
    """0 or more."""
    return _number(text, "a number of seconds", lambda value: 0 <= value < math.inf)


def positive_seconds(text: str) -> float:
    """More than 0."""
    return _number(text, "a number of seconds above 0", lambda value: 0 < value < math.inf)


def rate(text: str) -> Fraction:
    """Frames a second, exactly."""
    with contextlib.suppress(ValueError, ZeroDivisionError):
        value = Fraction(text)
        if 0 < value <= 1000:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a rate such as 25 or 30000/1001")


def _number(text: str, meaning: str, fits: Callable[[float], bool]) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if fits(value):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
