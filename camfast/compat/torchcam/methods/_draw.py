"""Maps at the size of the layer, by the fused operator; in as many dimensions as the layer has."""

from __future__ import annotations

import torch
from torch import Tensor

from camfast import ops


def drawn(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    rule: str = "gradcam",
    relu: bool,
    normalize: bool,
) -> Tensor:
    """One map a sample, of activations [N, C, ...] with gradients of that shape or weights [N, C].

    Returns:
        [N, ...] in the dtype of the activations; zeros for a sample in which something is not finite.
    """
    places = activations.shape[2:]
    if len(places) != 2:  # the rules know no neighbours: positions may stand in one row
        activations = activations.flatten(2)[:, :, None]
        gradients = None if gradients is None else gradients.flatten(2)[:, :, None]
    maps, _ = ops.cam(activations, gradients, weights, rule=rule, relu=relu, normalize=normalize)
    return maps.reshape(len(maps), *places).to(activations.dtype)


def weighted(activations: Tensor, weights: Tensor, *, relu: bool, normalize: bool) -> Tensor:
    """The same, of weights that a subclass makes: one a channel, [N, C] or [1, C], or one a place, [N, C, ...]."""
    weights = weights.detach().to(activations.device)
    if weights.dim() > 2:
        gradients = weights.to(activations.dtype).expand_as(activations)
        return drawn(activations, gradients, rule="hirescam", relu=relu, normalize=normalize)
    return drawn(activations, weights=weights.expand(activations.shape[:2]), relu=relu, normalize=normalize)


def stretched(maps: Tensor, dimensions: int) -> Tensor:
    """Maps whose last ``dimensions`` are places, each from 0 to 1; zeros where it is constant."""
    rows = maps.detach().reshape(-1, 1, 1, maps.shape[maps.dim() - dimensions :].numel())
    ones = torch.ones((len(rows), 1), dtype=rows.dtype, device=rows.device)
    return drawn(rows, weights=ones, relu=False, normalize=True).reshape(maps.shape)
