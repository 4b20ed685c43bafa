"""From the maps of the layers to one heatmap, as pytorch-grad-cam does it: stretched before and after it is resized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camfast.compat.pytorch_grad_cam._spline import zoomed
from camfast.explanation import MapForm
from camfast.maps import LayerMap, drawn

LEAST_SPAN = 1e-7
"""Is added to what a map is divided by."""


def averaged(layers: Sequence[LayerMap], form: MapForm) -> tuple[Tensor, Tensor]:
    """The mean of the layers' maps; as :func:`camfast.maps.combine`, but for what is added to the spans."""
    made = [_made(layer) for layer in layers]
    if len(made) == 1 and made[0].positions == 2:
        return _alone(made[0], form)
    return _together(made, form, lambda maps: maps.mean(dim=0))


def multiplied(layers: Sequence[LayerMap], form: MapForm) -> tuple[Tensor, Tensor]:
    """The product of the layers' heatmaps; as :func:`camfast.maps.multiplied`, but for what is added to the spans."""
    made = [_made(layer) for layer in layers]
    positions = made[0].positions
    return _together(made, form, lambda maps: stretched(maps, positions).prod(dim=0))


def stretched(maps: Tensor, positions: int) -> Tensor:
    """Maps from 0 to nearly 1, over their last dimensions."""
    places = tuple(range(-positions, 0))
    above = maps - maps.amin(dim=places, keepdim=True)
    return above / (above.amax(dim=places, keepdim=True) + LEAST_SPAN)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [..., h, w] at another size: bilinear; those of volumes [..., d, h, w] by cubic splines."""
    if len(size) == 3:
        return zoomed(maps, size)
    return drawn(maps, 2, relu=False)(size=tuple(size), normalize=False)[0]


class _Made(NamedTuple):
    """The map of a layer, without what is negative in it."""

    maps: Tensor
    """[..., *places]"""
    ranges: Tensor
    """[..., 2]"""
    positions: int
    """How many dimensions its places have."""


def _made(layer: LayerMap) -> _Made:
    maps, ranges = layer(size=None, normalize=False)
    return _Made(maps, ranges, maps.dim() - ranges.dim() + 1)


def _alone(made: _Made, form: MapForm) -> tuple[Tensor, Tensor]:
    """One map: stretched by the operator, and then by what the two spans come to with what is added to them."""
    heatmaps, ranges = drawn(made.maps, 2, relu=False)(size=form.size, normalize=form.normalize)
    lost = made.ranges[..., :1].isnan()
    if form.normalize:
        low, high = made.ranges.unbind(-1)
        span = (ranges[..., 1] - ranges[..., 0]) / (high - low + LEAST_SPAN)
        heatmaps.mul_((span / (span + LEAST_SPAN)).nan_to_num(0)[..., None, None])
    return heatmaps, ranges.masked_fill(lost, torch.nan)


def _together(made: list[_Made], form: MapForm, join: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Maps, each stretched and resized, as one."""
    positions = made[0].positions
    size = form.size or max((tuple(each.maps.shape[-positions:]) for each in made), key=lambda s: torch.Size(s).numel())
    maps = join(torch.stack([resized(stretched(each.maps, positions), size).clamp_min(0) for each in made]))
    places = tuple(range(-positions, 0))
    lost = torch.stack([each.ranges[..., 0].isnan() for each in made]).any(dim=0)
    ranges = torch.stack([maps.amin(dim=places), maps.amax(dim=places)], dim=-1).masked_fill(lost[..., None], torch.nan)
    heatmaps = stretched(maps, positions) if form.normalize else maps
    return heatmaps.masked_fill(lost.reshape(*lost.shape, *[1] * positions), 0), ranges
