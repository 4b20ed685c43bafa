"""Edges of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from camfast.compat._missing import missing

__getattr__ = missing(__name__)


def sobel_cam(img: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The mean magnitude of the slopes across and down, by Sobel's filter: uint8 [H, W].

    Args:
        img: RGB [H, W, 3], uint8 or float32.
    """
    grey = _grey(img)
    framed = np.pad(grey, 1, mode="reflect")
    down = framed[2:] - framed[:-2]
    across = framed[:, 2:] - framed[:, :-2]
    slopes = (
        across[:-2] + 2 * across[1:-1] + across[2:],
        down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:],
    )
    sizes = [np.round(np.abs(slope)).clip(0, 255) for slope in slopes]
    mean: npt.NDArray[Any] = np.round((sizes[0] + sizes[1]) / 2).astype(np.uint8)
    return mean


def _grey(img: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[H, W] float64; of whole numbers whole numbers, a half rounded up."""
    grey: npt.NDArray[Any] = np.asarray(img, dtype=np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.floor(grey + 0.5) if img.dtype == np.uint8 else grey
