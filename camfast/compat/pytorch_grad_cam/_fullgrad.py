"""FullGrad with its layers apart, for the first component of their maps."""

from __future__ import annotations

import torch
from torch import Tensor

from camfast import methods
from camfast.compat.pytorch_grad_cam._joining import resized, stretched
from camfast.compat.pytorch_grad_cam.utils.svd_on_activations import turned_as_theirs
from camfast.methods.fullgrad import BiasMaps, stretched_sum

_COARSER = 8
"""By how much the maps are smaller whose first component is taken."""


class SmoothedFullGrad(methods.FullGrad):
    """The first component of the maps of all layers, where FullGrad adds them up."""

    def _bias_maps(self, dimensions: int) -> BiasMaps:
        return _EveryLayer(dimensions)

    def _together(self, maps: list[Tensor], size: tuple[int, ...]) -> Tensor:
        layers = torch.stack([resized(layer, size) for layer in maps], dim=1)
        coarse = tuple(max(side // _COARSER, 1) for side in size)
        component = turned_as_theirs(resized(stretched(layers, len(size)), coarse))
        return resized(stretched(component, len(size)), size)


class _EveryLayer(BiasMaps):
    """Keeps the map of every layer, and those of the channels of the images, in the order in which they come in a
    forward pass: the sign of a component depends on it."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self._layers: list[Tensor] = []

    def add(self, magnitudes: Tensor, factors: Tensor | None) -> None:
        parts = torch.split(magnitudes, 1, dim=1) if factors is None else [magnitudes]
        self._layers = [*(stretched_sum(part, factors) for part in parts), *self._layers]  # the last come first

    def taken(self) -> list[Tensor]:
        layers, self._layers = self._layers, []
        return layers
