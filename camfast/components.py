"""Maps that are the first principal component of a layer's channels, where others are their sum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camfast import reference
from camfast._operands import accumulation_type
from camfast.maps import LayerMap, drawn
from camfast.projection import first_component

Project = Callable[[Tensor], Tensor]
"""Makes maps [M, h, w] of channels [M, C, h, w], as :func:`camfast.projection.first_component` does."""


def component(channels: Tensor, dimensions: int = 2, project: Project = first_component) -> LayerMap:
    """The first component of channels [N, C, h, w], or [N, K, C, h, w] for K maps of every sample; of volumes with
    three ``dimensions``. Its negative part is cut off.
    """
    many = channels.shape[: -dimensions - 1]
    maps = project(channels.flatten(0, -dimensions - 2))
    return drawn(maps.reshape(*many, *maps.shape[1:]), dimensions)


def of_each_class(activations: Tensor, gradients: Tensor) -> Tensor:
    """Activations to be multiplied by gradients, with a dimension for K classes where the gradients have it."""
    return activations if gradients.dim() == activations.dim() else activations[:, None]


def eigen_smoothed(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    rule: str = "gradcam",
    project: Project = first_component,
) -> LayerMap:
    """The first component of what a rule of :func:`camfast.ops.cam` adds up: of the activations, weighted.

    Args:
        activations: [N, C, h, w], or those of volumes, [N, C, d, h, w].
        gradients: as the activations, or with K after N; None where there are weights.
        weights: [N, C] or [N, K, C], in place of a rule.
        rule: how activations are weighted by gradients.
        project: what makes a component of them.
    """
    dtype = accumulation_type(activations.dtype)
    # The rules know no neighbours: positions may stand in one row.
    row = activations.to(dtype).flatten(2)[:, :, None]
    slopes = None if gradients is None else gradients.to(dtype).flatten(2 - activations.dim())[..., None, :]
    weights = None if weights is None else weights.to(dtype)
    several = (slopes is not None and slopes.dim() == 5) or (weights is not None and weights.dim() == 3)
    with torch.autocast(activations.device.type, enabled=False):
        products = reference.weighted_activations(row[:, None] if several else row, slopes, weights, rule)
    places = activations.shape[2:]
    return component(products.reshape(*products.shape[:-2], *places), len(places), project)
