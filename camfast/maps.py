"""From the map of each target layer to one heatmap: at the size asked for, stretched to [0, 1], layers averaged."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from camfast import ops, volumes
from camfast.explanation import MapForm


class LayerMap(Protocol):
    """The rule of a method, bound to what one layer put out."""

    def __call__(self, *, size: tuple[int, ...] | None, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """Heatmaps [N, H, W] or [N, K, H, W], and ranges [N, 2] or [N, K, 2]; three dimensions for volumes."""


def weighted(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    rule: str = "gradcam",
    relu: bool = True,
) -> LayerMap:
    """A rule of :func:`camfast.ops.cam`, bound to activations [N, C, h, w], or those of volumes, [N, C, d, h, w]."""
    if activations.dim() == 4:
        return functools.partial(ops.cam, activations, gradients, weights, rule=rule, relu=relu)
    places = activations.shape[2:]
    row = activations.flatten(2)[:, :, None]  # the rules know no neighbours: positions may stand in one row
    slopes = None if gradients is None else gradients.flatten(-3)[..., None, :]
    maps, ranges = ops.cam(row, slopes, weights, rule=rule, relu=False, normalize=False)
    maps = maps.masked_fill(ranges[..., :1, None].isnan(), torch.nan)
    return drawn(maps.reshape(*maps.shape[:-2], *places), len(places), relu=relu)


def drawn(maps: Tensor, dimensions: int = 2, *, relu: bool = True) -> LayerMap:
    """Maps of a layer that are there already, [N, h, w] or [N, K, h, w]; of volumes with three ``dimensions``."""
    return functools.partial(_drawn, maps, dimensions, relu)


def combine(layers: Sequence[LayerMap], form: MapForm) -> tuple[Tensor, Tensor]:
    """Heatmaps [N, H, W] and ranges [N, 2] of several layers as one, or [N, K, H, W] and [N, K, 2]: every layer counts
    the same.

    Each layer's map is normalized at its own size and interpolated; the mean is normalized again, and its range is
    returned. What is not finite in one layer is not finite. One layer alone is mapped in a single pass.
    """
    if len(layers) == 1:
        return layers[0](size=form.size, normalize=form.normalize)
    own = [layer(size=None) for layer in layers]
    dimensions = own[0][0].dim() - own[0][1].dim() + 1
    size = form.size or max((tuple(maps.shape[-dimensions:]) for maps, _ in own), key=math.prod)
    resized = []
    for maps, ranges in own:
        lost = ranges[..., 0].isnan().reshape(*ranges.shape[:-1], *[1] * dimensions)
        resized.append(_drawn(maps, dimensions, False, size=size, normalize=False)[0].masked_fill(lost, torch.nan))
    return _drawn(torch.stack(resized).mean(dim=0), dimensions, False, size=size, normalize=form.normalize)


def multiplied(layers: Sequence[LayerMap], form: MapForm) -> tuple[Tensor, Tensor]:
    """As :func:`combine`, with the product of the layers' maps, each in [0, 1] at the size asked for: what is not hot
    in one of them is not hot."""
    size = form.size
    if size is None:
        own = [layer(size=None) for layer in layers]
        size = max((tuple(maps.shape[ranges.dim() - 1 :]) for maps, ranges in own), key=math.prod)
    dimensions = len(size)
    product: Tensor | None = None
    for layer in layers:
        maps, ranges = layer(size=size)
        maps = maps.masked_fill(ranges[..., 0].isnan().reshape(*ranges.shape[:-1], *[1] * dimensions), torch.nan)
        product = maps if product is None else product * maps
    assert product is not None  # an engine has a layer
    return _drawn(product, dimensions, False, size=size, normalize=form.normalize)


def _drawn(
    maps: Tensor, dimensions: int, relu: bool, *, size: tuple[int, ...] | None, normalize: bool = True
) -> tuple[Tensor, Tensor]:
    each = maps.flatten(0, -dimensions - 1)
    if dimensions == 3:
        resized, ranges = volumes.drawn(each, size, relu, normalize)
    else:  # the operator with one channel of weight one
        ones = each.new_ones((len(each), 1))
        resized, ranges = ops.cam(each[:, None], weights=ones, size=size, relu=relu, normalize=normalize)
    many = maps.shape[:-dimensions]
    return resized.reshape(*many, *resized.shape[1:]), ranges.reshape(*many, 2)
