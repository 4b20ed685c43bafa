"""The method that needs no gradient, because the weights of the classifier are the weights of the channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camfast import ops
from camfast.engine import Engine
from camfast.explanation import Explanation
from camfast.hooks import forward_hooks
from camfast.passes import ForwardPass, forward
from camfast.targets import Classes, Scores


class CAM(Engine):
    """CAM (Zhou et al. 2016, https://arxiv.org/abs/1512.04150).

    For models that end in global average pooling and one linear layer: a channel's weight is the linear layer's
    weight for the class. As in the paper, negative evidence is kept, not cut off. That the model has this form is
    shown by computing its output from the activations, at the first call.

    Arguments as for :class:`camfast.GradCAM`, with one target layer (the one before the pooling), and targets that are
    classes.

    Raises:
        ValueError: the model does not end in this form after the target layer, several layers, or callable targets.
    """

    _head: nn.Linear | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._layers is not None and len(self._layers) > 1:
            raise ValueError(f"CAM explains one target layer, {len(self._layers)} were given; use GradCAM for several")

    def _explain(
        self, layers: Mapping[str, nn.Module], x: Tensor, targets: Classes | Scores, size: tuple[int, int]
    ) -> Explanation:
        if isinstance(targets, Scores):
            raise ValueError("targets are callables, for which CAM has no weights; give classes, or use GradCAM")
        (name,) = layers
        if self._head is None:
            self._head = self._find_head(layers, x[:1].clone())  # a model may change its input in place
        result = forward(self.model, layers, x, self._select)
        with torch.no_grad():
            indices = targets.resolve(result.output)
            heatmaps, ranges = ops.cam(
                self._feature_maps(name, result.activations[name]),
                weights=self._head.weight.index_select(0, indices),
                size=size,
                relu=False,
            )
        return Explanation(heatmaps.float(), result.output, indices, ranges.float())

    def _find_head(self, layers: Mapping[str, nn.Module], x: Tensor) -> nn.Linear:
        """The linear layer that ran last, once it is shown to give the model's output from the pooled activations."""
        linears = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        ran: list[nn.Linear] = []
        with forward_hooks(linears, lambda index: lambda *_: ran.append(linears[index])):
            result = forward(self.model, layers, x, self._select)
        (name,) = layers
        if not ran or not self._is_pooled_linear(name, ran[-1], result):
            raise ValueError(
                f"{type(self.model).__name__} is not global average pooling and one linear layer after {name!r}, "
                "as CAM needs it; use GradCAM, or another target layer"
            )
        return ran[-1]

    def _is_pooled_linear(self, name: str, head: nn.Linear, result: ForwardPass) -> bool:
        activations = self._feature_maps(name, result.activations[name])
        if activations.shape[1] != head.in_features:
            return False
        with torch.no_grad():
            computed = head(activations.float().mean(dim=(2, 3)).to(head.weight.dtype)).float()
        logits = result.output.float()
        if computed.shape != logits.shape:
            return False
        tolerance = 1e-3 if result.output.dtype in (torch.float32, torch.float64) else 5e-2
        return bool((computed - logits).abs().max() <= tolerance * logits.abs().max().clamp_min(1e-6))
