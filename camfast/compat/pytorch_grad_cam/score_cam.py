"""Score-CAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam import _engines
from camfast.compat.pytorch_grad_cam._targets import translated
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM
from camfast.engine import Engine
from camfast.explanation import Explanation

__getattr__ = missing(__name__)


class ScoreCAM(BaseCAM):
    """As :class:`camfast.ScoreCAM`, but for the corners of the masks, which are aligned with those of the channels.

    ``cam.batch_size`` is how many masked images run together; None has it chosen. Arguments as for :class:`BaseCAM`.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False)
        self.batch_size: int | None = None

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, targets: Any, activations: Any, grads: Any
    ) -> Array:
        """See :meth:`BaseCAM.get_cam_weights`."""
        engine = _engines.ScoreCAM(self.model, target_layer, self.reshape_transform, batch_size=self.batch_size)
        return _engines.channel_weights(engine, input_tensor, translated(targets))

    def _explain(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool = False) -> Explanation:
        _engines.set_batch_size(self._engine(eigen_smooth), self.batch_size)
        return super()._explain(input_tensor, targets, eigen_smooth)

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        engine = _engines.ScoreCAM(self.model, self.target_layers, self.reshape_transform)
        return _engines.smoothed(engine, eigen_smooth)
