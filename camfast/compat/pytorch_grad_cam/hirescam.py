"""HiResCAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._rules import Array, image_by_rule
from camfast.compat.pytorch_grad_cam.base_cam import BaseCAM
from camfast.engine import Engine

__getattr__ = missing(__name__)


class HiResCAM(BaseCAM):
    """As :class:`camfast.HiResCAM`. Arguments as for :class:`BaseCAM`."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)

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
        return image_by_rule("hirescam", activations, grads, eigen_smooth)

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        return methods.HiResCAM(self.model, self.target_layers, self.reshape_transform, eigen_smooth=eigen_smooth)
