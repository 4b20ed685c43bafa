"""RefineCAM, by the name that it has in pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from camfast.compat._missing import NamesNearest, missing
from camfast.compat.pytorch_grad_cam._joining import multiplied
from camfast.compat.pytorch_grad_cam.base_cam import Array, BaseCAM, Targets
from camfast.compat.pytorch_grad_cam.grad_cam_plusplus import GradCAMPlusPlus
from camfast.compat.pytorch_grad_cam.utils.image import scale_cam_image

__getattr__ = missing(__name__)

Self = TypeVar("Self", bound="RefineCAM")


class RefineCAM(NamesNearest):
    """As :class:`camfast.RefineCAM`: the maps of several layers multiplied.

    Args:
        model, target_layers, reshape_transform: as for :class:`BaseCAM`.
        base_method: the class that makes the maps: one of this package from a single pass, one of your own layer by
            layer.
        kwargs: passed to it.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: Callable[..., BaseCAM] = GradCAMPlusPlus,
        **kwargs: Any,
    ) -> None:
        self.base_cam_per_layer = [base_method(model, [layer], reshape_transform, **kwargs) for layer in target_layers]
        together = base_method(model, target_layers, reshape_transform, **kwargs)
        self._together = together if isinstance(together, BaseCAM) and together._is_as_it_was else None
        self.outputs: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """See :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, input_tensor: Tensor, targets: Targets = None, eigen_smooth: bool = False) -> Array:
        """Heatmaps float32 [N, H, W] in [0, 1]; see :meth:`BaseCAM.__call__`."""
        if self._together is not None:
            self._together._engine(eigen_smooth).joined = multiplied
            heatmaps = self._together.forward(input_tensor, targets, eigen_smooth)
            self.outputs = self._together.outputs
            return heatmaps
        layers = [cam.forward(input_tensor, targets, eigen_smooth) for cam in self.base_cam_per_layer]
        self.outputs = self.base_cam_per_layer[-1].outputs
        return scale_cam_image(np.prod(layers, axis=0))

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return  # there are no hooks between calls
