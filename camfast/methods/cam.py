"""The method that needs no gradient, because the weights of the classifier are the weights of the channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast.engine import Engine
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.layers import Layers
from camfast.maps import weighted
from camfast.runners import Runner
from camfast.targets import Classes, Scores


class CAM(Engine):
    """CAM (Zhou et al. 2016, https://arxiv.org/abs/1512.04150).

    For models that end in global average pooling and one linear layer: a channel's weight is the linear layer's
    weight for the class. As in the paper, negative evidence is kept, not cut off. That the model has this form is
    checked in every call, by computing its output from the activations,
    for which a CUDA device is waited for.

    Arguments as for :class:`camfast.GradCAM`, with one target layer (the one before the pooling), and targets that are
    classes.

    Raises:
        ValueError: the model does not end in this form after the target layer, several layers, or callable targets.
    """

    uses_gradients = False
    multiplies = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **kwargs)
        if self._layers is not None and len(self._layers) > 1:
            raise ValueError(f"CAM explains one target layer, {len(self._layers)} were given; use GradCAM for several")

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        if isinstance(targets, Scores):
            raise ValueError("targets are callables, for which CAM has no weights; give classes, or use GradCAM")
        result = runner.forward(batch)
        ((name, layer_output),) = result.activations.items()
        activations = self._feature_maps(name, layer_output)
        head = self._head(activations, result.output)
        if head is None:
            raise ValueError(
                f"{type(self.model).__name__} is not global average pooling and one linear layer after {name!r}, "
                "as CAM needs it; use GradCAM, or another target layer"
            )
        with torch.inference_mode(False), torch.no_grad():
            indices = targets.resolve(result.output)
            weights = head.weight.detach()[indices]
            heatmaps, ranges = self.joined([weighted(activations, weights=weights, relu=False)], form)
        return Explanation(heatmaps.float(), result.output, indices, ranges.float())

    def _head(self, activations: Tensor, output: Tensor) -> nn.Linear | None:
        """The linear layer that makes the output of the pooled activations; None where there is none."""
        linears = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        return next((linear for linear in reversed(linears) if _is_pooled_linear(activations, linear, output)), None)


def _is_pooled_linear(activations: Tensor, head: nn.Linear, output: Tensor) -> bool:
    """Whether the output is what the linear layer makes of the pooled activations, in every sample that is finite."""
    if activations.shape[1] != head.in_features:
        return False
    with torch.no_grad():
        computed = head(activations.float().flatten(2).mean(dim=2).to(head.weight.dtype)).float()
    logits = output.float()
    if computed.shape != logits.shape:
        return False
    exact = (torch.float32, torch.float64)
    tolerance = 1e-3 if output.dtype in exact and activations.dtype in exact else 5e-2
    scale = logits.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
    wrong = (computed - logits).abs() > tolerance * scale  # False where either is not a number
    return not bool(wrong.any())
