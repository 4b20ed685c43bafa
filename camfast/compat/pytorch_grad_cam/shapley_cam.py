"""ShapleyCAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._engines import smoothed
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM
from camfast.engine import Engine

__getattr__ = missing(__name__)


class ShapleyCAM(BaseCAM):
    """As :class:`camfast.ShapleyCAM`. Arguments as for :class:`BaseCAM`."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(
            model, target_layers, reshape_transform, compute_input_gradient=True, uses_gradients=True, detach=False
        )

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, target_category: Any, activations: Any, grads: Any
    ) -> Array:
        """See :meth:`BaseCAM.get_cam_weights`; both are tensors with their graph here."""
        bend: Tensor | None = None
        if grads.requires_grad:
            (bend,) = torch.autograd.grad(
                grads, activations, activations.detach(), retain_graph=True, allow_unused=True
            )
        values = grads.detach() if bend is None else grads.detach() - bend / 2
        if self.reshape_transform is not None:
            values = self.reshape_transform(values)
        weights: Array = values.flatten(2).mean(dim=2).cpu().numpy()
        return weights

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        return smoothed(methods.ShapleyCAM(self.model, self.target_layers, self.reshape_transform), eigen_smooth)
