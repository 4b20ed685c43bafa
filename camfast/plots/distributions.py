"""How the values of activations and gradients are spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from camfast.fonts import legible
from camfast.hooks import Capture
from camfast.plots.canvas import TITLE_SIZE, GivenAxes, as_array, axes_for, headline

Values = Tensor | npt.NDArray[Any]

_COLORS = {"activations": "tab:blue", "gradients": "tab:orange"}


def histogram(
    values: Capture | Mapping[str, Values] | Values,
    title: str = "",
    *,
    bins: int = 80,
    log: bool = True,
    ax: GivenAxes = None,
) -> Figure:
    """Histograms of what a capture saw: a row a layer, activations on the left, gradients on the right.

    Above each stands how much of it is exactly zero, and the standard deviation: a layer that has died, or whose
    gradients vanish, is seen at once. Values that are not finite are counted there, not drawn.

    >>> with camfast.capture(model, ["layer1", "layer4"]) as seen:  # doctest: +SKIP
    ...     model(x)[:, 281].sum().backward()
    >>> camfast.plots.histogram(seen).savefig("histogram.png")  # doctest: +SKIP

    Args:
        values: a capture; or tensors of any shape by name, a row each; or one tensor.
        title: above all; not written where ``ax`` is given.
        bins: how many, between the least and the largest value.
        log: a logarithmic scale for the counts, as a single peak hides the rest otherwise.
        ax: one Axes for one tensor; one for each tensor; for a capture with gradients two for each layer, row by row.

    Raises:
        TypeError: ``values`` are no real numbers; what ``ax`` holds are no Axes.
        ValueError: nothing was captured, or is given; ``bins`` below 1; another number of Axes.
    """
    if not isinstance(bins, int) or bins < 1:
        raise ValueError(f"bins={bins!r}; expected a number of at least 1")
    columns = _columns(values)
    names = list(next(iter(columns.values())))
    if not names:
        raise ValueError("values is empty; expected a capture after a forward pass, or tensors by name")
    rows, wide = len(names), len(columns)

    def make() -> Any:
        size = (4.2 * wide + 0.4, min(1.6 * rows, 100) + 0.8)
        return Figure(figsize=size, layout="constrained").subplots(rows, wide)

    figure, axes = axes_for(ax, rows * wide, make)
    for row, name in enumerate(names):
        for column, (kind, found) in enumerate(columns.items()):
            axis = axes[row * wide + column]
            if name in found:
                numbers = as_array(f"{kind} {name!r}" if kind else name, found[name]).reshape(-1)
                _draw(axis, numbers, " ".join(filter(None, (name, kind))), bins, log, _COLORS.get(kind, "tab:blue"))
            else:
                axis.set_axis_off()
                legible(axis.set_title(f"{name} {kind}: none came", fontsize=TITLE_SIZE))
    if ax is None:
        headline(figure, title)
    return figure


def _columns(values: Any) -> dict[str, Mapping[str, Values]]:
    """Tensors by name, by kind."""
    if isinstance(values, Capture):
        both: dict[str, Mapping[str, Values]] = {"activations": values.activations, "gradients": values.gradients}
        return {kind: tensors for kind, tensors in both.items() if tensors or kind == "activations"}
    if isinstance(values, Mapping):
        return {"": values}
    return {"": {"values": values}}


def _draw(axis: Axes, numbers: npt.NDArray[Any], name: str, bins: int, log: bool, color: str) -> None:
    finite = numbers[np.isfinite(numbers)].astype(np.float64)
    said = [name]
    if finite.size:
        said.append(f"{np.mean(finite == 0):.0%} zeros, std {finite.std():.2g}")
        axis.hist(finite, bins=bins, range=_range(finite, bins), color=color, log=log)
        axis.axvline(0, color="black", linewidth=0.5)
    if finite.size < numbers.size:
        said.append(f"{numbers.size - finite.size} not finite")
    elif not numbers.size:
        said.append("empty")
    legible(axis.set_title("; ".join(said), fontsize=TITLE_SIZE - 1))
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _range(values: npt.NDArray[Any], bins: int) -> tuple[float, float]:
    """From the least to the largest value, and beyond them where that is too little for so many bins."""
    least, most = float(values.min()), float(values.max())
    largest = max(abs(least), abs(most))
    room = 0.0 if most - least > 4 * bins * np.spacing(largest) else max(0.5, largest / 1000)
    return least - room, most + room
