"""What every plot begins with: its Axes, new or given, and operands that are what they should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from camfast.fonts import legible

Picture = npt.NDArray[np.uint8]
GivenAxes = Axes | Sequence[Axes] | None

TITLE_SIZE = 10
"""Of the title of Axes, in points."""


def axes_for(ax: GivenAxes, count: int, make: Callable[[], Any]) -> tuple[Figure, list[Axes]]:
    """The given Axes, checked; or those that ``make`` gives, one or an array of them, the surplus ones switched off.

    Raises:
        TypeError: ``ax`` holds something other than Axes.
        ValueError: it holds another number of Axes.
    """
    found = list(np.ravel(np.asarray(make() if ax is None else ax, dtype=object)))
    wrong = next((each for each in found if not isinstance(each, Axes)), None)
    if wrong is not None or not found:
        raise TypeError(f"ax holds {'nothing' if not found else _a(wrong)}; expected {_axes(count)}")
    if ax is None:
        for axis in found[count:]:
            axis.set_axis_off()
    elif len(found) != count:
        raise ValueError(f"ax holds {len(found)} Axes; expected {_axes(count)}")
    # The figure at the root, also of Axes in a subfigure.
    return cast(Figure, found[0].figure.canvas.figure), found[:count]


def show_picture(axis: Axes, picture: npt.NDArray[Any], title: str, **how: Any) -> None:
    """A picture under a title, without ticks."""
    axis.imshow(picture, **how)
    axis.set_axis_off()
    legible(axis.set_title(title, fontsize=TITLE_SIZE))


def headline(figure: Figure, title: str) -> None:
    """A title over all Axes, where there is one."""
    if title:
        legible(figure.suptitle(title))


def check_picture(image: Any) -> Picture:
    """The image, if it is uint8 RGB [H, W, 3].

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
        raise TypeError(f"image is {found}; expected a uint8 array [H, W, 3]: numpy.asarray(image) of an RGB photo")
    return image


def as_array(name: str, values: Any) -> npt.NDArray[np.floating[Any]]:
    """Numbers on the host, float32 or float64.

    Raises:
        TypeError: neither a tensor nor an array of real numbers.
    """
    if isinstance(values, Tensor) and not values.is_complex():
        values = values.detach().cpu()
        values = (values if values.dtype == torch.float64 else values.float()).numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise TypeError(f"{name} is {_a(values)}; expected a tensor or an array of real numbers")
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def _axes(count: int) -> str:
    return "one Axes" if count == 1 else f"{count} Axes, as figure.subplots(1, {count}) gives"


def _a(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"a {type(value).__name__} of {value.dtype}"
    return f"a {type(value).__name__}"
