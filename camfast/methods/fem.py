"""FEM: channels weighted by how many of their values stand out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from camfast._operands import accumulation_type
from camfast.layers import Layers
from camfast.maps import LayerMap, weighted
from camfast.methods.base import ActivationMethod


class FEM(ActivationMethod):
    """The feature explanation method (Fuad et al. 2020, https://hal.science/hal-02963298).

    A channel's weight is the share of positions whose value is above the channel's mean by more than ``k`` standard
    deviations; the map is the weighted sum of the activations, its negative part cut off, whatever the class. It needs
    no gradient. Other arguments as for :class:`camfast.GradCAM`.

    Args:
        k: how many standard deviations; the paper has 2.

    Raises:
        ValueError: ``k`` is not a number of at least 0.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        k: float = 2,
        **kwargs: Any,
    ) -> None:
        if isinstance(k, bool) or not isinstance(k, (int, float)) or not 0 <= k < math.inf:
            raise ValueError(f"k={k!r}; expected a number of standard deviations, at least 0")
        super().__init__(model, target_layers, reshape_transform, **kwargs)
        self.parameters = {"k": k}

    def _map(self, activations: Tensor) -> LayerMap:
        rows = activations.flatten(2).to(accumulation_type(activations.dtype))
        above = rows - rows.mean(dim=2, keepdim=True)
        # The deviation of what is left, rounding and all: a channel that is the same everywhere has no weight.
        deviation = above.square().mean(dim=2, keepdim=True).sqrt()
        share = (above > self.parameters["k"] * deviation).to(rows.dtype).mean(dim=2)
        return weighted(activations, weights=share)
