"""Grad-CAM with weights that also know how the score bends."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from camfast.curvature import BentRunner
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.maps import LayerMap
from camfast.methods.base import RuleMethod
from camfast.methods.direct import DirectMethod
from camfast.runners import ModelRunner, Runner
from camfast.targets import Classes, Scores


class ShapleyCAM(DirectMethod, RuleMethod):
    """ShapleyCAM (Cai 2025, https://arxiv.org/abs/2501.06261).

    A channel's weight is the mean over positions of ``G - H A / 2``: the Shapley value of the channel, where the score
    is its own second-order expansion around the activations ``A``, ``H`` being the Hessian there. Of logits of a model
    that is piecewise linear after the layer (ReLU, pooling, linear layers), ``H`` is zero and the map that of Grad-CAM.

    Arguments as for :class:`camfast.GradCAM`, but for ``optimize``, ``precision`` and ``graphs``: the model itself
    runs. K classes take one forward pass, and K times two backward passes down to the layer.

    Raises:
        ValueError: a copy or a graph was asked for.
        RuntimeError: an operation after the layer cannot be differentiated twice. Fused attention, which cannot, is
            replaced by plain attention for the length of the call.
    """

    rule = "gradcam"

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        assert self._layers is not None  # found before the first call
        bent: Runner = BentRunner(runner, self.model, self._layers, self._select)
        if self.reshape_transform is None:
            bent = self._reader.watch(cast(ModelRunner, bent))
        return super()._explain(bent, batch, targets, form)

    def _map(self, activations: Tensor, gradients: Tensor) -> LayerMap:
        positions = tuple(range(2 - activations.dim(), 0))
        return self._form(activations, weights=gradients.mean(dim=positions))
