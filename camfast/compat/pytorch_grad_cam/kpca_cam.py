"""KPCA-CAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._engines import whatever
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM
from camfast.compat.pytorch_grad_cam.utils.svd_on_activations import WITHOUT_GAMMA, get_2d_projection_kernel
from camfast.engine import Engine

__getattr__ = missing(__name__)


class KPCA_CAM(BaseCAM):
    """As :class:`camfast.KPCACAM`. ``eigen_smooth`` changes nothing.

    Args:
        model, target_layers, reshape_transform: as for :class:`BaseCAM`.
        kernel: ``"linear"``, ``"poly"``, ``"rbf"``, ``"sigmoid"`` or ``"cosine"``.
        gamma: of the kernel; None for one over the number of channels. Ignored by kernels that have none.

    Raises:
        ValueError: an unknown kernel, or a ``gamma`` that is not positive.
    """

    _looks_at_no_target = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)
        self.kernel = kernel
        self.gamma = gamma
        self._engine(False)  # which checks both

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
        return get_2d_projection_kernel(activations, self.kernel, self.gamma)

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        gamma = None if self.kernel in WITHOUT_GAMMA else self.gamma
        return methods.KPCACAM(
            self.model, self.target_layers, self.reshape_transform, output=whatever, kernel=self.kernel, gamma=gamma
        )
