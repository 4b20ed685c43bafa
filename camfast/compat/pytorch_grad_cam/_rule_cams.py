"""What the classes have in common that are one rule of camfast each: such a class is its method and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from camfast.compat.pytorch_grad_cam._engines import smoothed
from camfast.compat.pytorch_grad_cam._rules import Array, image_by_rule, weights_by_rule
from camfast.compat.pytorch_grad_cam.base_cam import BaseCAM
from camfast.engine import Engine
from camfast.methods.base import RuleMethod


class RuleCAM(BaseCAM):
    """A class that does what a method of camfast does."""

    _method: ClassVar[type[RuleMethod]]

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)

    def _make_engine(self, eigen_smooth: bool) -> Engine:
        return smoothed(self._method(self.model, self.target_layers, self.reshape_transform), eigen_smooth)


class WeightsByRule(RuleCAM):
    """One whose rule gives every channel a weight."""

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, target_category: Any, activations: Any, grads: Any
    ) -> Array:
        """See :meth:`BaseCAM.get_cam_weights`."""
        return weights_by_rule(self._method.rule, activations, grads)


class ImageByRule(RuleCAM):
    """One whose rule goes place by place."""

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
        return image_by_rule(self._method.rule, activations, grads, eigen_smooth)
