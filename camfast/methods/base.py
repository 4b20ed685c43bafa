"""The two shapes that most methods have: a map from activations and gradients, or from activations alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from camfast.components import eigen_smoothed
from camfast.engine import Engine
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.layers import Layers
from camfast.maps import LayerMap, weighted
from camfast.passes import GradientPass
from camfast.runners import Runner
from camfast.targets import Classes, Scores


class GradientMethod(Engine):
    """A map of each layer from its activations and the gradients of the score there."""

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        result = runner.gradient(batch, targets)
        maps = [self._map_of(name, activations, result) for name, activations in result.activations.items()]
        heatmaps, ranges = self.joined(maps, form)
        return Explanation(heatmaps.float(), result.output, result.targets, ranges.float())

    def _map_of(self, name: str, activations: Tensor, result: GradientPass) -> LayerMap:
        """The map of one layer."""
        feature_maps = self._feature_maps(name, activations)
        if result.mean is None:
            return self._map(feature_maps, self._gradient_maps(name, result.gradients[name], activations))
        gradients = result.mean.to(feature_maps.dtype)[..., None, None]  # the same at all positions
        return self._map(feature_maps, gradients.expand(*gradients.shape[:-2], *feature_maps.shape[2:]))

    @abstractmethod
    def _map(self, activations: Tensor, gradients: Tensor) -> LayerMap:
        """From activations [N, C, h, w] and gradients [N, C, h, w], or [N, K, C, h, w] where K classes are explained;
        with one more dimension for volumes."""


class RuleMethod(GradientMethod):
    """A rule of :func:`camfast.ops.cam`, where its formula is; or its eigen smoothing."""

    rule: ClassVar[str]

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        eigen_smooth: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(eigen_smooth, bool):
            raise ValueError(f"eigen_smooth={eigen_smooth!r}; expected True or False")
        super().__init__(model, target_layers, reshape_transform, **kwargs)
        self._form = eigen_smoothed if eigen_smooth else weighted
        self.parameters = {"eigen_smooth": eigen_smooth}

    def _map(self, activations: Tensor, gradients: Tensor) -> LayerMap:
        return self._form(activations, gradients, rule=self.rule)


class ActivationMethod(Engine):
    """A map of each layer from its activations alone: the same one for every class."""

    uses_gradients = False

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        result = runner.forward(batch)
        classes = None if isinstance(targets, Scores) else targets.resolve(result.output)
        maps = [self._map(self._feature_maps(name, seen)) for name, seen in result.activations.items()]
        heatmaps, ranges = self.joined(maps, form)
        if classes is not None and classes.dim() == 2:
            heatmaps = heatmaps[:, None].expand(-1, classes.shape[1], *heatmaps.shape[1:])
            ranges = ranges[:, None].expand(-1, classes.shape[1], -1)
        return Explanation(heatmaps.float(), result.output, classes, ranges.float())

    @abstractmethod
    def _map(self, activations: Tensor) -> LayerMap:
        """From activations [N, C, h, w], or [N, C, d, h, w] of volumes."""
