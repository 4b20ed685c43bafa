"""Figures. Nothing is shown and no global matplotlib state is touched: a figure is returned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from camfast.render import overlay


def panels(
    image: npt.NDArray[np.uint8],
    heatmap: Tensor | npt.NDArray[np.floating],
    title: str = "",
    *,
    alpha: float = 0.4,
    colormap: str = "jet",
    region: Sequence[int] | None = None,
) -> Figure:
    """Three panels: the image, the heatmap where it lies on the image, and the overlay.

    >>> camfast.plots.panels(image, heatmaps[0], "tabby, 63.1%").savefig("cat.png")  # doctest: +SKIP

    Args:
        image: uint8 RGB [H, W, 3].
        heatmap: [h, w] in [0, 1].
        title: above the panels.
        alpha, colormap, region: as for :func:`camfast.overlay`.

    Raises:
        TypeError: the image is not a uint8 array [H, W, 3].
        ValueError: as :func:`camfast.overlay`.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
        raise TypeError(f"image is {found}; expected a uint8 array [H, W, 3]: numpy.asarray(image) of an RGB photo")
    values = heatmap.detach().cpu().numpy() if isinstance(heatmap, Tensor) else heatmap
    height, width = image.shape[:2]
    blended = overlay(image, values, alpha, colormap, region=region)
    top, left, rows, columns = region if region is not None else (0, 0, height, width)

    figure = Figure(figsize=(12, min(max(12 * height / width / 3, 1.5), 16) + 0.8), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, 3, sharex=True, sharey=True)
    for axis, name in zip(axes, ("image", "heatmap", "overlay"), strict=True):
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
    axes[0].imshow(image)
    extent = (left - 0.5, left + columns - 0.5, top + rows - 0.5, top - 0.5)
    axes[1].imshow(values, cmap=colormap, vmin=0, vmax=1, extent=extent)
    axes[2].imshow(blended)
    axes[0].set_xlim(-0.5, width - 0.5)
    axes[0].set_ylim(height - 0.5, -0.5)
    if title:
        figure.suptitle(title)
    return figure
