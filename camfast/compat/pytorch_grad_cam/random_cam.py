"""Maps of random weights, by the name that they have in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM

__getattr__ = missing(__name__)


class RandomCAM(BaseCAM):
    """Activations added up with weights from NumPy's random numbers, uniform from -1 to 1: others in every call.

    ``np.random.seed`` makes them come again; :class:`camfast.RandomCAM` has the same ones always. Arguments as for
    :class:`BaseCAM`.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, target_category: Any, activations: Any, grads: Any
    ) -> Array:
        """See :meth:`BaseCAM.get_cam_weights`."""
        weights: Array = np.random.uniform(-1, 1, size=np.shape(grads)[:2])
        return weights
