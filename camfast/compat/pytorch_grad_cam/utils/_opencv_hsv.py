"""A colour at every brightness, in the hues and saturations that OpenCV's 8-bit HSV knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def brightnesses(color: Array) -> Array:
    """A colour, uint8 [3], with the HSV values from 0 to 255: uint8 [256, 3]."""
    hue, saturation = _hue_and_saturation(color)
    value = np.arange(256)[:, None] / 255
    # How far red, green and blue are from the hue, in sixths of the circle.
    sector = (np.array([5, 3, 1]) + hue / 30) % 6
    away = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    table: Array = np.round(value * (1 - saturation / 255 * away) * 255).astype(np.uint8)
    return table


def _hue_and_saturation(color: Array) -> tuple[int, int]:
    """The hue in steps of two degrees, and the saturation from 0 to 255."""
    red, green, blue = (int(channel) for channel in color)
    highest, span = max(red, green, blue), max(red, green, blue) - min(red, green, blue)
    if span == 0:
        return 0, 0
    if highest == red:
        turn = (green - blue) / span
    elif highest == green:
        turn = 2 + (blue - red) / span
    else:
        turn = 4 + (red - green) / span
    return round(turn % 6 * 30) % 180, round(255 * span / highest)
