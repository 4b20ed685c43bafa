"""RandomCAM: a baseline that knows nothing of the model's output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast.layers import Layers
from camfast.maps import LayerMap, weighted
from camfast.methods.base import ActivationMethod
from camfast.options import check_seed


class RandomCAM(ActivationMethod):
    """Activations added up with random weights, uniform from -1 to 1; the negative part cut off.

    What a method's maps must beat to say anything of the class, as in pytorch-grad-cam. A channel's weight is the
    same in every sample and every call, so that a sample has the same map in any batch; other seeds give others. The
    state of PyTorch's random numbers is left alone. Other arguments as for :class:`camfast.GradCAM`.

    Args:
        seed: a whole number of at least 0.

    Raises:
        ValueError: ``seed`` is none.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **kwargs)
        self.parameters = {"seed": check_seed(seed)}

    def _map(self, activations: Tensor) -> LayerMap:
        samples, channels = activations.shape[:2]
        weights = _weights(self.parameters["seed"], channels, activations.device)
        return weighted(activations, weights=weights.expand(samples, -1))


@functools.lru_cache(maxsize=64)  # a CUDA graph cannot record a copy from the host
def _weights(seed: int, channels: int, device: torch.device) -> Tensor:
    """[C]: the same on every device."""
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(channels, generator=generator) * 2 - 1).to(device)
