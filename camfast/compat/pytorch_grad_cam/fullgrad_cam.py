"""FullGrad, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from camfast import methods
from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam._fullgrad import SmoothedFullGrad
from camfast.compat.pytorch_grad_cam.base_cam import BaseCAM
from camfast.engine import Engine

__getattr__ = missing(__name__)


class FullGrad(BaseCAM):
    """As :class:`camfast.FullGrad`.

    Args:
        model: as for :class:`BaseCAM`.
        target_layers, reshape_transform: not looked at, as every layer with a bias counts.
    """

    _nearest: ClassVar = {
        "bias_data": "the bias of the layers themselves",
        "get_bias_data": "the bias of the layers themselves",
    }

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module] = (),
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, [], reshape_transform, compute_input_gradient=True)

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        return SmoothedFullGrad(self.model) if eigen_smooth else methods.FullGrad(self.model)
