"""Eigen-CAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._engines import projected, whatever
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM
from camfast.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from camfast.engine import Engine

__getattr__ = missing(__name__)


class EigenCAM(BaseCAM):
    """As :class:`camfast.EigenCAM`, with the sign of NumPy's singular vectors. ``eigen_smooth`` changes nothing.

    Arguments as for :class:`BaseCAM`.
    """

    _looks_at_no_target = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)

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
        return get_2d_projection(activations)

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        return projected(methods.EigenCAM(self.model, self.target_layers, self.reshape_transform, output=whatever))
