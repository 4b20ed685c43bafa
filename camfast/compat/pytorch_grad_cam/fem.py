"""FEM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._engines import whatever
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM
from camfast.engine import Engine

__getattr__ = missing(__name__)


class FEM(BaseCAM):
    """As :class:`camfast.FEM`. ``eigen_smooth`` changes nothing.

    Args:
        model, target_layers, reshape_transform: as for :class:`BaseCAM`.
        k: how many standard deviations a value must be above its channel's mean.

    Raises:
        ValueError: ``k`` is not a number of at least 0.
    """

    _looks_at_no_target = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        k: float = 2,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)
        self.k = k
        self._engine(False)  # which checks it

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        target_category: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool = False,
    ) -> Array:
        """See :meth:`BaseCAM.get_cam_image`."""
        places = tuple(range(2, np.ndim(activations)))
        mean, deviation = (f(activations, axis=places, keepdims=True) for f in (np.mean, np.std))
        share = (activations > mean + self.k * deviation).mean(axis=places, keepdims=True)
        total: Array = (share * activations).sum(axis=1)
        return total

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        return methods.FEM(self.model, self.target_layers, self.reshape_transform, output=whatever, k=self.k)
