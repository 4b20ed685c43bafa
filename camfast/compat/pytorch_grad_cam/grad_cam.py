"""Grad-CAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._rules import Array, weights_by_rule
from camfast.compat.pytorch_grad_cam.base_cam import BaseCAM
from camfast.engine import Engine

__getattr__ = missing(__name__)


class GradCAM(BaseCAM):
    """As :class:`camfast.GradCAM`. Arguments as for :class:`BaseCAM`."""

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
        return weights_by_rule("gradcam", activations, grads)

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        return methods.GradCAM(self.model, self.target_layers, self.reshape_transform, eigen_smooth=eigen_smooth)
