"""Photos with the heat on them: one heatmap in three panels, several methods, several classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from camfast.explanation import Explanation
from camfast.outputs import PerSample
from camfast.plots.canvas import GivenAxes, Picture, as_array, axes_for, check_picture, headline, show_picture
from camfast.render import overlay

_WIDTH = 12.0
"""Of a figure, in inches."""
_MOST_COLUMNS = 5


def panels(
    image: Picture,
    heatmap: Tensor | npt.NDArray[np.floating],
    title: str = "",
    *,
    alpha: float = 0.4,
    colormap: str = "jet",
    region: Sequence[int] | None = None,
    ax: GivenAxes = None,
) -> Figure:
    """Three panels: the image, the heatmap where it lies on the image, and the overlay.

    >>> camfast.plots.panels(image, heatmaps[0], "tabby, 63.1%").savefig("cat.png")  # doctest: +SKIP

    Args:
        image: uint8 RGB [H, W, 3].
        heatmap: [h, w] in [0, 1].
        title: above the panels, in any script; not written where ``ax`` is given, as the figure is yours.
        alpha, colormap, region: as for :func:`camfast.overlay`.
        ax: three Axes to draw on; None makes a figure.

    Raises:
        TypeError: the image is not a uint8 array [H, W, 3]; what ``ax`` holds are no Axes.
        ValueError: another number of Axes; otherwise as :func:`camfast.overlay`.
    """
    check_picture(image)
    values = heatmap.detach().cpu().numpy() if isinstance(heatmap, Tensor) else heatmap
    height, width = image.shape[:2]
    blended = overlay(image, values, alpha, colormap, region=region)
    top, left, rows, columns = region if region is not None else (0, 0, height, width)

    figure, axes = axes_for(ax, 3, lambda: _figure(image, 1, 3).subplots(1, 3, sharex=True, sharey=True))
    extent = (left - 0.5, left + columns - 0.5, top + rows - 0.5, top - 0.5)
    show_picture(axes[0], image, "image")
    show_picture(axes[1], values, "heatmap", cmap=colormap, vmin=0, vmax=1, extent=extent)
    show_picture(axes[2], blended, "overlay")
    for axis in axes:
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)
    if ax is None:
        headline(figure, title)
    return figure


def compare(
    image: Picture,
    heatmaps: Mapping[str, Tensor | npt.NDArray[np.floating]],
    title: str = "",
    *,
    alpha: float = 0.5,
    colormap: str = "jet",
    region: Sequence[int] | None = None,
    ax: GivenAxes = None,
) -> Figure:
    """The image, and beside it one overlay for each heatmap, under its name: several methods, layers or models.

    >>> maps = {name: camfast.explain(model, x, name).heatmaps[0] for name in names}  # doctest: +SKIP
    >>> camfast.plots.compare(image, maps)  # doctest: +SKIP

    Args:
        image: uint8 RGB [H, W, 3].
        heatmaps: [h, w] in [0, 1], by name.
        title: above all, in any script; not written where ``ax`` is given.
        alpha, colormap, region: as for :func:`camfast.overlay`.
        ax: one Axes more than there are heatmaps; None makes a figure.

    Raises:
        TypeError: ``image`` or ``heatmaps`` are none; what ``ax`` holds are no Axes.
        ValueError: there is no heatmap; another number of Axes; otherwise as :func:`camfast.overlay`.
    """
    check_picture(image)
    if not isinstance(heatmaps, Mapping):
        raise TypeError(f"heatmaps is a {type(heatmaps).__name__}; expected heatmaps [h, w] by name, in a dict")
    if not heatmaps:
        raise ValueError("heatmaps is empty; expected at least one heatmap [h, w] by name")
    drawn = [("image", image)]
    for name, heatmap in heatmaps.items():
        values = as_array(f"heatmap {name!r}", heatmap)
        drawn.append((name, overlay(image, values, alpha, colormap, region=region)))
    return _row(drawn, title, ax)


def topk(
    image: Picture,
    result: Explanation,
    names: Sequence[str] | None = None,
    title: str = "",
    *,
    sample: int = 0,
    alpha: float = 0.5,
    colormap: str = "jet",
    region: Sequence[int] | None = None,
    ax: GivenAxes = None,
) -> Figure:
    """The image, and beside it one overlay for each explained class, with the class and its probability.

    >>> result = camfast.GradCAM(loaded.module).explain(x, camfast.TopK(3))  # doctest: +SKIP
    >>> camfast.plots.topk(image, result, loaded.categories)  # doctest: +SKIP

    Args:
        image: uint8 RGB [H, W, 3], that of the sample.
        result: an explanation of classes: heatmaps [N, K, H, W] or [N, H, W].
        names: of the classes, by index, in any script; None writes ``class 281``.
        title: above all; not written where ``ax`` is given.
        sample: which one of the explained.
        alpha, colormap, region: as for :func:`camfast.overlay`.
        ax: one Axes more than there are classes; None makes a figure.

    Raises:
        TypeError: ``image`` or ``result`` are none; what ``ax`` holds are no Axes.
        ValueError: the explanation is of something else than classes, or of volumes; too few names; another number of
            Axes; otherwise as :func:`camfast.overlay`.
        IndexError: there is no such sample.
    """
    check_picture(image)
    if not isinstance(result, Explanation):
        raise TypeError(
            f"result is a {type(result).__name__}; expected an Explanation, as explain(x, camfast.TopK(3)) returns"
        )
    if not -len(result) <= sample < len(result):
        raise IndexError(f"sample={sample} is out of range; the explanation has {len(result)} samples")
    if result.targets is None or isinstance(result.logits, PerSample) or result.logits.dim() != 2:
        raise ValueError("result is an explanation of callables or of another output than logits; expected classes")
    classes: list[int] = result.targets[sample].reshape(-1).tolist()
    maps = result.heatmaps[sample].reshape(len(classes), *result.heatmaps.shape[result.targets.dim() :])
    if maps.dim() != 3:
        raise ValueError(f"result has heatmaps of {list(maps.shape[1:])}; expected [H, W]: take one plane of a volume")
    if names is not None and len(names) <= max(classes):
        raise ValueError(
            f"names has {len(names)} entries; expected one for every class, and class {max(classes)} is explained"
        )
    probabilities = result.logits[sample].float().softmax(dim=0)
    drawn: list[tuple[str, Picture]] = [("image", image)]
    for index, heatmap in zip(classes, maps.cpu(), strict=True):
        name = f"class {index}" if names is None else names[index]
        shown = overlay(image, heatmap.numpy(), alpha, colormap, region=region)
        drawn.append((f"{name}\n{float(probabilities[index]):.1%}", shown))
    return _row(drawn, title, ax)


def _row(drawn: Sequence[tuple[str, Picture]], title: str, ax: GivenAxes) -> Figure:
    """Pictures of one size, by title, in one row; in more where there are many."""
    columns = min(len(drawn), _MOST_COLUMNS)
    rows = -(-len(drawn) // columns)
    figure, axes = axes_for(ax, len(drawn), lambda: _figure(drawn[0][1], rows, columns).subplots(rows, columns))
    for axis, (name, picture) in zip(axes, drawn, strict=True):
        show_picture(axis, picture, name)
    if ax is None:
        headline(figure, title)
    return figure


def _figure(image: Picture, rows: int, columns: int) -> Figure:
    """A figure for so many copies of an image, of bounded size however tall that is."""
    height, width = image.shape[:2]
    wide = min(_WIDTH / columns, 4.0)
    tall = min(max(wide * height / width, 1.5), 16 / rows)
    return Figure(figsize=(wide * columns, (tall + 0.4) * rows + 0.4), layout="constrained")
