"""RefineCAM: the maps of several layers multiplied, so that deep ones tell what and early ones tell where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from camfast.explainer import Size
from camfast.explanation import Explanation
from camfast.inputs import Inputs
from camfast.layers import Layers
from camfast.maps import multiplied
from camfast.methods.composite import Composite
from camfast.target_layer import find_stages
from camfast.targets import Target


class RefineCAM(Composite):
    """RefineCAM (https://arxiv.org/abs/2605.14641).

    The maps of all layers, each stretched to [0, 1] at the size of the image, are multiplied, from one pass.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`, with two target layers or more; None
            finds the last layers of the last three sizes of map.
        base: the method that makes the maps, by name or class; ``"gradcam++"`` unless given.
        options: as for that method.

    Raises:
        ValueError: less than two target layers, or a ``base`` without a map of each.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        base: Any = "gradcam++",
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, base=base, **options)
        self.engine.finding = find_stages
        if self.engine.target_layers is not None and len(self.engine.target_layers) < 2:
            raise ValueError(
                f"target_layers={self.engine.target_layers}; RefineCAM multiplies the maps of two layers or more: give "
                'them, for example target_layers=["layer2", "layer3", "layer4"] of a ResNet'
            )
        self.engine.joined = multiplied

    @staticmethod
    def _why_not(base: Any) -> str | None:
        return None if getattr(base, "multiplies", True) else "has no map of each of several layers"

    def _explain(self, x: Inputs, targets: Target, size: Size | None, normalize: bool) -> Explanation:
        return self.engine.explain(x, targets, size=size, normalize=normalize)
