"""What an explanation looks like where it is the last line of a notebook's cell."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from camfast.explanation import Explanation
from camfast.plots.canvas import axes_for
from camfast.plots.mosaic import Mosaic

_MOST_SAMPLES, _MOST_CLASSES = 12, 6
"""What is shown of larger explanations: the first ones."""
_SIDE = 112
"""Of a heatmap at most, in pixels."""


def png_of(result: Explanation) -> bytes | None:
    """The heatmaps as a small PNG, with the explained classes, the samples of a large batch cut to the first dozen.

    None where there is no heatmap. Of a volume the plane in the middle is shown. The images themselves are not part of
    an explanation: :func:`camfast.plots.topk` and :func:`camfast.panels` show those, too.
    """
    several = result.ranges.dim() == 3
    maps = result.heatmaps.detach() if several else result.heatmaps.detach()[:, None]
    samples, classes = maps.shape[:2]
    maps = maps[:_MOST_SAMPLES, :_MOST_CLASSES].float().cpu()
    if maps.numel() == 0:
        return None
    if maps.dim() == 5:
        maps = maps[:, :, maps.shape[2] // 2]
    labels = [
        _label(result, sample, column if several else None)
        for sample in range(maps.shape[0])
        for column in range(maps.shape[1])
    ]
    tiles = _small(maps.flatten(0, 1)).numpy()
    # A row a sample where there are several classes.
    mosaic = Mosaic.of(len(tiles), tiles.shape[1], tiles.shape[2], maps.shape[1] if several else _MOST_CLASSES)
    figure, (axis,) = axes_for(None, 1, mosaic.axes)
    limits = (0.0, 1.0) if tiles.min() >= 0 and tiles.max() <= 1 else (float(tiles.min()), float(tiles.max()))
    mosaic.draw(axis, tiles, labels, cmap="jet", vmin=limits[0], vmax=limits[1])
    if samples > _MOST_SAMPLES or classes > _MOST_CLASSES:
        whole = f"{samples} × {classes}" if several else str(samples)
        axis.set_title(f"{len(tiles)} of {whole} heatmaps", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _label(result: Explanation, sample: int, column: int | None) -> str:
    place = (sample,) if column is None else (sample, column)
    said = ".".join(map(str, place))
    if not bool(torch.isfinite(result.ranges[place]).all()):
        return f"{said}: not finite"
    return said if result.targets is None else f"{said}: class {int(result.targets[place])}"


def _small(maps: Tensor) -> Tensor:
    """[n, h, w] of at most so many pixels a side."""
    height, width = maps.shape[1:]
    share = min(_SIDE / max(height, width), 1.0)
    size = max(round(height * share), 1), max(round(width * share), 1)
    return torch.nn.functional.interpolate(maps[:, None], size, mode="area")[:, 0]
