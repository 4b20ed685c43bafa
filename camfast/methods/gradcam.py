"""Methods whose channel weights come from gradients."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from torch import Tensor, nn

from camfast import ops
from camfast.engine import Engine, combine
from camfast.explanation import Explanation
from camfast.passes import forward_and_gradient
from camfast.targets import Classes, Scores


class GradCAM(Engine):
    """Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

    A channel's weight is the mean over positions of the gradient of the score; the map is the weighted sum of the
    activations, its negative part cut off.

    >>> cam = camfast.GradCAM(model)  # doctest: +SKIP
    >>> heatmaps = cam(x)             # doctest: +SKIP

    The model is explained as in evaluation mode and is left exactly as it was. Frozen models, ``no_grad``,
    ``inference_mode``, in-place operations, half precision and autocast need no preparation. One engine may be used
    from several threads. Backward hooks of your own on modules after the layer fire, as in any backward pass.

    Args:
        model: any module that maps [N, C, H, W] to logits [N, classes]. DataParallel and ``torch.compile`` wrappers
            are looked through: the module inside runs, eagerly, on its own device.
        target_layers: modules or dotted names; None finds the last layer with a feature map at the first call.
            Several layers are normalized each, at their own size, averaged, and normalized again. A layer that runs
            several times in one forward pass counts with its last run.
        reshape_transform: makes [N, C, h, w] of what the layer puts out, and of its gradient, where it is not that
            already (the tokens of a transformer, say).
        output: which part of the model's output has the logits, where that is not a tensor: a key, an index, or a
            callable.

    Raises:
        TypeError: ``model`` is not a module, or is a ScriptModule.
        ValueError: a layer is not in the model; the message has the closest names.
    """

    rule = "gradcam"
    _graph_before_layer = False  # until a call finds that the model needs it

    def _explain(
        self, layers: Mapping[str, nn.Module], x: Tensor, targets: Classes | Scores, size: tuple[int, int]
    ) -> Explanation:
        result = forward_and_gradient(self.model, layers, x, self._select, targets.score, self._graph_before_layer)
        self._graph_before_layer = result.graph_before_layer
        maps = [
            functools.partial(
                ops.cam,
                self._feature_maps(name, result.activations[name]),
                self._feature_maps(name, result.gradients[name]),
                rule=self.rule,
            )
            for name in layers
        ]
        heatmaps, ranges = combine(maps, size)
        return Explanation(heatmaps.float(), result.output, result.targets, ranges.float())
