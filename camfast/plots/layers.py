"""What layers put out, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from camfast.colors import check_colormap
from camfast.feature_maps import FeatureMaps, feature_maps, first_middle_last
from camfast.fonts import legible
from camfast.layers import Layers
from camfast.models import LoadedModel
from camfast.plots.canvas import TITLE_SIZE, GivenAxes, Picture, as_array, axes_for, check_picture, headline
from camfast.plots.mosaic import Mosaic

Normalize = Literal["channel", "layer"]
NORMALIZE: tuple[Normalize, ...] = ("channel", "layer")


def feature_grid(
    activations: Tensor | npt.NDArray[Any],
    title: str = "",
    *,
    sample: int = 0,
    normalize: Normalize = "channel",
    channels: int | Sequence[int] | None = None,
    colormap: str = "viridis",
    columns: int | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Every channel of a layer as a small picture, with its number.

    A channel that is the same everywhere is shown dark, and its value stands beside its number: ``17 = 0`` is a channel
    that never fires here. What is not finite is left white.

    >>> with camfast.capture(model, "features.0") as seen:  # doctest: +SKIP
    ...     model(x)
    >>> camfast.plots.feature_grid(seen.activations["features.0"]).savefig("grid.png")  # doctest: +SKIP

    Args:
        activations: [N, C, h, w] or [C, h, w]; gradients just as well.
        title: above the grid, in any script.
        sample: which one of N.
        normalize: ``"channel"``: each from its own minimum to its own maximum, which shows what every channel finds.
            ``"layer"``: all by one scale, shown beside them, which shows how much.
        channels: how many of the first ones, or which; None shows all.
        colormap: any of matplotlib's.
        columns: how many beside each other; None makes about a square.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: ``activations`` are no real numbers; ``ax`` is no Axes.
        ValueError: another rank, no channel, a channel that there is not; an unknown ``normalize`` or ``colormap``.
        IndexError: there is no such sample.
    """
    maps, numbers = _chosen(as_array("activations", activations), sample, channels)
    _check(normalize, colormap, columns)
    mosaic = Mosaic.of(len(maps), maps.shape[1], maps.shape[2], columns)
    figure, (axis,) = axes_for(ax, 1, lambda: mosaic.axes(title, scale=normalize == "layer"))
    _draw(axis, mosaic, maps, numbers, normalize, colormap)
    if title:
        legible(axis.set_title(title, fontsize=TITLE_SIZE))
    return figure


def layer_montage(
    model: nn.Module | LoadedModel,
    image: Picture | Tensor,
    title: str = "",
    *,
    layers: Layers | None = None,
    channels: int = 36,
    normalize: Normalize = "channel",
    colormap: str = "viridis",
    ax: GivenAxes = None,
) -> Figure:
    """The first, the middle and the last layer at once: from edges to parts of things.

    >>> camfast.plots.layer_montage(camfast.load_model(), photo).savefig("montage.png")  # doctest: +SKIP

    Args:
        model: a :class:`camfast.LoadedModel`, for photos; or a module, for tensors. It is left as it was.
        image: uint8 [H, W, 3], or what the module takes, [1, 3, H, W].
        title: above all; not written where ``ax`` is given.
        layers: names, globs or types among which first, middle and last are chosen; None takes the convolutions.
        channels: how many of each layer at most, evenly spread over all.
        normalize, colormap: as for :func:`feature_grid`.
        ax: as many Axes as there are layers, three mostly; None makes a figure.

    Raises:
        TypeError: a photo for a module without preprocessing; no image at all; what ``ax`` holds are no Axes.
        ValueError: ``layers`` match none with feature maps; ``channels`` below 1; otherwise as :func:`feature_grid`.
    """
    module, x = _ready(model, image)
    found, _ = feature_maps(module, x, layers)
    return montage(found, title, channels=channels, normalize=normalize, colormap=colormap, ax=ax)


def montage(
    layers: Sequence[FeatureMaps],
    title: str = "",
    *,
    channels: int = 36,
    normalize: Normalize = "channel",
    colormap: str = "viridis",
    ax: GivenAxes = None,
) -> Figure:
    """The first, the middle and the last of some feature maps; arguments as for :func:`layer_montage`."""
    _check(normalize, colormap, None)
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(f"channels={channels!r}; expected a number of at least 1")
    shown = first_middle_last(layers)

    def make() -> Any:
        return Figure(figsize=(4.6 * len(shown), 5.4), layout="constrained").subplots(1, len(shown))

    figure, axes = axes_for(ax, len(shown), make)
    for axis, layer in zip(axes, shown, strict=True):
        count = layer.maps.shape[1]
        spread = np.unique(np.linspace(0, count - 1, min(channels, count)).round().astype(int)).tolist()
        maps, numbers = _chosen(as_array(layer.layer, layer.maps), 0, spread)
        _draw(axis, Mosaic.of(len(maps), maps.shape[1], maps.shape[2]), maps, numbers, normalize, colormap)
        legible(axis.set_title(f"{layer.layer}\n{layer.form}", fontsize=TITLE_SIZE))
    if ax is None:
        headline(figure, title)
    return figure


def filters(
    conv: nn.Module, title: str = "", *, colormap: str = "coolwarm", columns: int | None = None, ax: Axes | None = None
) -> Figure:
    """The weights of a convolution: in colour where it takes RGB; else each filter's mean over its input channels.

    Zero is gray in colour, and the middle of the colour map otherwise; the largest weight of the layer is full.

    Args:
        conv: a convolution in two dimensions.
        title: above the filters; where it is empty, how many there are and their shape.
        colormap: of the weights, where they are not RGB; one with a neutral middle.
        columns: how many beside each other.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: not a convolution in two dimensions; ``ax`` is no Axes.
        ValueError: an unknown ``colormap``.
    """
    if not isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
        raise TypeError(f"conv is a {type(conv).__name__}; expected a torch.nn.Conv2d")
    _check("layer", colormap, columns)
    weights = as_array("conv.weight", conv.weight if isinstance(conv, nn.Conv2d) else conv.weight.transpose(0, 1))
    in_color = weights.shape[1] == 3
    tiles = weights.transpose(0, 2, 3, 1) if in_color else weights.mean(axis=1)
    largest = float(np.abs(tiles[np.isfinite(tiles)]).max(initial=0)) or 1.0
    mosaic = Mosaic.of(len(tiles), tiles.shape[1], tiles.shape[2], columns)
    title = title or f"{len(tiles)} filters {list(weights.shape[1:])}"
    figure, (axis,) = axes_for(ax, 1, lambda: mosaic.axes(title, scale=not in_color))
    labels = [str(number) for number in range(len(tiles))]
    if in_color:
        mosaic.draw(axis, np.nan_to_num(0.5 + tiles / (2 * largest)), labels)
    else:
        mosaic.draw(axis, tiles, labels, scale=True, cmap=colormap, vmin=-largest, vmax=largest)
    legible(axis.set_title(title, fontsize=TITLE_SIZE))
    return figure


def _draw(
    axis: Axes, mosaic: Mosaic, maps: npt.NDArray[Any], numbers: Sequence[int], normalize: str, colormap: str
) -> None:
    finite = np.where(np.isfinite(maps), maps, np.nan)
    labels = [_label(number, values) for number, values in zip(numbers, finite, strict=True)]
    known = finite[np.isfinite(finite)]
    least, most = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if normalize == "layer":
        most = most if most > least else least + 1
        mosaic.draw(axis, finite, labels, scale=True, cmap=colormap, vmin=least, vmax=most)
        return
    halves = finite / 2  # whose differences are finite, too
    lows = np.fmin.reduce(halves, axis=(1, 2), keepdims=True)
    spans = np.fmax.reduce(halves, axis=(1, 2), keepdims=True) - lows
    scaled = (halves - lows) / np.where(spans > 0, spans, 1)
    mosaic.draw(axis, scaled, labels, cmap=colormap, vmin=0, vmax=1)


def _label(number: int, values: npt.NDArray[Any]) -> str:
    known = values[np.isfinite(values)]
    if not known.size:
        return f"{number} not finite"
    return f"{number} = {known[0]:.2g}" if known.min() == known.max() else str(number)


def _chosen(
    values: npt.NDArray[Any], sample: int, channels: int | Sequence[int] | None
) -> tuple[npt.NDArray[Any], list[int]]:
    """Maps [n, h, w] of a sample, and the numbers of their channels."""
    if values.ndim == 4:
        if not -len(values) <= sample < len(values):
            raise IndexError(f"sample={sample} is out of range; there are {len(values)} samples")
        values = values[sample]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"activations has shape {list(values.shape)}; expected [N, C, h, w] or [C, h, w], not empty")
    numbers = list(range(len(values)))
    if isinstance(channels, int):
        if channels < 1:
            raise ValueError(f"channels={channels}; expected a number of at least 1, or which ones")
        numbers = numbers[:channels]
    elif channels is not None:
        wrong = [number for number in channels if not 0 <= number < len(values)]
        if wrong or len(channels) == 0:
            raise ValueError(f"channels={list(channels)}; expected some of 0 to {len(values) - 1}")
        numbers = list(channels)
    return values[numbers], numbers


def _check(normalize: str, colormap: str, columns: int | None) -> None:
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize={normalize!r} is unknown; expected one of {', '.join(map(repr, NORMALIZE))}")
    if columns is not None and columns < 1:
        raise ValueError(f"columns={columns}; expected a number of at least 1")
    check_colormap(colormap)


def _ready(model: nn.Module | LoadedModel, image: Picture | Tensor) -> tuple[nn.Module, Tensor]:
    """The module, and what it takes."""
    if isinstance(image, Tensor):
        return (model.module if isinstance(model, LoadedModel) else model), image
    check_picture(image)
    if not isinstance(model, LoadedModel):
        raise TypeError(
            f"image is a photo, and model a {type(model).__name__}, which does not say how photos are made ready for "
            "it; give a LoadedModel, as camfast.load_model() returns, or the tensor [1, 3, H, W] that the module takes"
        )
    return model.module, model.preprocess(torch.from_numpy(np.ascontiguousarray(image))[None].to(model.device))
