"""The colours that OpenCV's colour maps have, by their numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from camfast.suggest import did_you_mean

Array = npt.NDArray[Any]
Knots = tuple[Sequence[float], Sequence[float]]

NUMBERS = MappingProxyType(
    {
        "autumn": 0,
        "bone": 1,
        "jet": 2,
        "winter": 3,
        "rainbow": 4,
        "ocean": 5,
        "summer": 6,
        "spring": 7,
        "cool": 8,
        "hsv": 9,
        "pink": 10,
        "hot": 11,
        "parula": 12,
        "magma": 13,
        "inferno": 14,
        "plasma": 15,
        "viridis": 16,
        "cividis": 17,
        "twilight": 18,
        "twilight_shifted": 19,
        "turbo": 20,
        "deepgreen": 21,
    }
)
_SAMPLES = 64
"""At which older maps are taken; in between they are straight."""


@functools.lru_cache(maxsize=32)
def opencv_colors(colormap: int) -> Array:
    """Red, green and blue of every level, uint8 [256, 3].

    Raises:
        ValueError: no such number.
    """
    name = next((name for name, number in NUMBERS.items() if number == colormap), None)
    if name is None:
        numbers = [f"{number} ({name})" for name, number in NUMBERS.items()]
        raise ValueError(f"colormap={colormap!r} is none of OpenCV's; {did_you_mean(str(colormap), numbers, 22)}")
    if name == "jet":
        return _jet()
    if name in _STRAIGHT:
        return _rounded(_STRAIGHT[name](np.linspace(0, 1, 256)))
    if name in _SAMPLED:
        at = np.linspace(0, 1, _SAMPLES)
        return _rounded(_between(at, _SAMPLED[name](at)))
    if name in ("twilight", "twilight_shifted"):  # which have more colours than there are levels
        colors = np.asarray(matplotlib.colormaps[name].colors)  # type: ignore[attr-defined]
        return _rounded(_between(np.linspace(0, 1, len(colors)), colors))
    return _rounded(matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3])


def _rounded(colors: Array) -> Array:
    table: Array = np.round(colors * 255).clip(0, 255).astype(np.uint8)
    return table


def _between(at: Array, colors: Array) -> Array:
    levels = np.linspace(0, 1, 256)
    return np.stack([np.interp(levels, at, channel) for channel in colors.T], axis=1)


def _jet() -> Array:
    """In whole numbers, so that halves are halves; they go to the even number, but for one in OpenCV's table."""
    levels = np.arange(256)[:, None]
    table: Array = np.round(np.clip(382.5 - abs(4 * levels - 255 * np.array([3, 2, 1])), 0, 255)).astype(np.uint8)
    table[159, 2] = 1
    return table


def _straight(*channels: Knots) -> Callable[[Array], Array]:
    """Red, green and blue that are straight between knots: places from 0 to 1, and values."""
    return lambda at: np.stack([np.interp(at, *channel) for channel in channels], axis=1)


_matlab_hot = _straight(([0, 3 / 8], [0, 1]), ([3 / 8, 3 / 4], [0, 1]), ([3 / 4, 1], [0, 1]))


def _pink(at: Array) -> Array:
    colors: Array = np.sqrt((2 * at[:, None] + _matlab_hot(at)) / 3)
    return colors


def _bone(at: Array) -> Array:
    colors: Array = (7 * at[:, None] + _matlab_hot(at)[:, ::-1]) / 8
    return colors


_SAMPLED: dict[str, Callable[[Array], Array]] = {
    "bone": _bone,
    "pink": _pink,
    "rainbow": _straight(
        ([2 / 5, 3 / 5, 4 / 5, 1], [1, 0, 0, 2 / 3]),
        ([0, 2 / 5, 3 / 5, 4 / 5], [0, 1, 1, 0]),
        ([3 / 5, 4 / 5], [0, 1]),
    ),
    "hot": _straight(([0, 2 / 5], [0, 1]), ([2 / 5, 4 / 5], [0, 1]), ([4 / 5, 1], [0, 1])),
    "hsv": _straight(
        ([0, 1 / 6, 1 / 3, 2 / 3, 5 / 6], [1, 1, 0, 0, 1]),
        ([0, 1 / 6, 1 / 2, 2 / 3], [0, 1, 1, 0]),
        ([1 / 3, 1 / 2, 5 / 6, 1], [0, 1, 1, 0]),
    ),
    "ocean": _straight(([2 / 3, 1], [0, 1]), ([1 / 3, 1], [0, 1]), ([0, 1], [0, 1])),
    "deepgreen": _straight(([2 / 3, 1], [0, 1]), ([0, 1], [0, 1]), ([1 / 3, 1], [0, 1])),
}


def _levels(*knots: tuple[int, int]) -> Knots:
    """Knots in whole levels."""
    return [place / 255 for place, _ in knots], [value / 255 for _, value in knots]


# No formula is known of parula: straight lines that are never more than one level away from it.
_STRAIGHT: dict[str, Callable[[Array], Array]] = {
    "parula": _straight(
        _levels((0, 53), (32, 3), (64, 20), (96, 7), (128, 57), (161, 150), (192, 218), (224, 252), (255, 249)),
        _levels((0, 42), (33, 100), (97, 168), (129, 185), (162, 191), (192, 186), (224, 207), (255, 251)),
        _levels((0, 135), (32, 225), (96, 198), (147, 132), (161, 114), (198, 78), (228, 41), (255, 14)),
    ),
}
