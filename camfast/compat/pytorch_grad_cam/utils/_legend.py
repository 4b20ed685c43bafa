"""A legend beside a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

Array = npt.NDArray[Any]


def legend(texts: Sequence[str], colors: Sequence[Any], size: Sequence[int]) -> Array:
    """Texts, each with a line of its colour: uint8 [height, width, 3]."""
    height, width = size
    dots = matplotlib.rcParams["figure.dpi"]
    figure = Figure(figsize=(width / dots, height / dots), dpi=dots)
    canvas = FigureCanvasAgg(figure)
    lines = [Line2D([0], [0], color=color[:3], linewidth=5 * height / 256) for color in colors]
    font = int(14 * height / 256 / max(1, len(colors) / 6))
    figure.legend(lines, texts, mode="expand", loc="upper left", fancybox=True, shadow=True, fontsize=max(font, 1))
    canvas.draw()  # type: ignore[no-untyped-call]
    picture = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    if picture.shape[:2] != (height, width):
        picture = np.asarray(Image.fromarray(picture.copy()).resize((width, height), Image.Resampling.BILINEAR))
    return picture
