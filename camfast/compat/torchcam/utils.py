"""A heatmap as colour over a picture."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from camfast.compat._missing import missing

__all__ = ["overlay_mask"]

__getattr__ = missing(__name__)


def overlay_mask(img: Image.Image, mask: Image.Image, colormap: Any = "jet", alpha: float = 0.7) -> Image.Image:
    """Lay a heatmap over a picture: ``alpha * img + (1 - alpha) * colour(heat ** 2)``.

    :func:`camfast.overlay` does that for whole batches, without the square, and with alpha the other way round.

    Args:
        img: an RGB or greyscale picture.
        mask: the heatmap, of any size: of mode ``"F"`` with values in [0, 1], or of mode ``"L"``, with 255 the hottest.
        colormap: of matplotlib, by name or as it is.
        alpha: the opacity of the picture, at least 0 and below 1.

    Returns:
        An RGB picture of the size of ``img``.

    Raises:
        TypeError: ``img`` or ``mask`` is no picture.
        ValueError: ``alpha`` is out of range, or ``img`` has another number of channels.
    """
    for name, picture in (("img", img), ("mask", mask)):
        if not isinstance(picture, Image.Image):
            raise TypeError(f"{name} is a {type(picture).__name__}; img and mask need to be PIL.Image")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha < 1:
        raise ValueError(f"alpha={alpha!r}; alpha is expected to be a number from 0 to less than 1")
    if len(img.getbands()) not in (1, 3):
        raise ValueError(f"img has mode {img.mode!r}; img needs to be a grayscale or RGB image")
    if mask.mode == "L":  # as whole numbers, their square would overflow
        mask = Image.fromarray(np.asarray(mask, dtype=np.float32) / 255)
    heat = np.asarray(mask.resize(img.size, resample=Image.Resampling.BICUBIC))
    colors = matplotlib.colormaps.get_cmap(colormap)(heat**2, bytes=True)[:, :, :3]
    return Image.blend(Image.fromarray(colors), img.convert("RGB"), alpha)
