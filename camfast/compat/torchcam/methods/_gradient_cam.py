"""What gradient methods share: the gradients at the layers, from the user's graph or without one."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from camfast import reference
from camfast._operands import accumulation_type
from camfast.compat.torchcam.methods._draw import drawn
from camfast.compat.torchcam.methods._scores import anew, from_graph
from camfast.compat.torchcam.methods.core import _CAM


class _GradCAM(_CAM):
    """An extractor whose maps come from activations and gradients.

    Gradients are those of the user's own forward pass: the call costs a backward pass down to the layers, fills no
    ``.grad``, and frees the graph unless ``retain_graph=True``. Where there is no graph (``no_grad``,
    ``inference_mode``, a frozen model), or no longer, the input that was seen runs again. A subclass of your own that
    overrides ``_get_weights`` calls ``self._backprop(scores, class_idx, **kwargs)``, and finds activations and
    gradients in ``self.hook_a`` and ``self.hook_g``.
    """

    _watches_input: ClassVar[bool] = True
    _rule: ClassVar[str | None] = None
    """The rule of :func:`camfast.ops.cam`; None where there is none."""
    _own_weights: ClassVar[bool] = False
    """Whether a subclass makes weights of its own."""
    _relu = True
    _score_used = True
    _targets_supported = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._own_weights = cls._get_weights is not _GradCAM._get_weights

    def _maps(self, class_idx: Any, scores: Any, normalized: bool, **kwargs: Any) -> list[Tensor]:
        if self._rule is None or self._own_weights:
            return super()._maps(class_idx, scores, normalized, **kwargs)
        kwargs.pop("eps", None)
        self._backprop(scores, class_idx, **kwargs)
        pairs = zip(self._activations(), self._gradients(), strict=True)
        with torch.no_grad():
            return [drawn(a, g, rule=self._rule, relu=self._relu, normalize=normalized) for a, g in pairs]

    def _get_weights(self, class_idx: Any, scores: Any, eps: float = 1e-8, **kwargs: Any) -> list[Tensor]:
        """By layer: the weights of the rule, in float32 at least; ``eps`` is that of camfast's operator, whatever is
        given."""
        if self._rule is None:
            return super()._get_weights(class_idx, scores)
        self._backprop(scores, class_idx, **kwargs)
        with torch.no_grad():
            return [_weights(a, g, self._rule) for a, g in zip(self._activations(), self._gradients(), strict=True)]

    def _backprop(self, scores: Any, class_idx: Any, retain_graph: bool = False, targets: Any = None) -> None:
        """Fills ``self.hook_g`` with the gradients of the scores at the layers."""
        wanted = self._wanted(class_idx, targets)
        if isinstance(scores, (Tensor, list)) and len(scores) != self._samples():
            raise ValueError(
                f"scores has {len(scores)} samples, and the last forward pass had {self._samples()}; give its output"
            )
        found = from_graph(scores, wanted, self.target_names, self._watch.edges, retain_graph)
        if found is None:
            found = self._anew(scores, wanted)
        elif not retain_graph:
            self._watch.forget_graph()  # of which the part before the layers would live on
        with torch.no_grad():
            self.hook_g = [self._watch.maps(index, gradient.detach()) for index, gradient in enumerate(found)]

    def _anew(self, scores: Any, wanted: Any) -> list[Tensor]:
        """The gradients of another run; the activations become those of that run, too."""
        if self._watch.seen is None:
            raise ValueError(
                "scores has no graph that leads to the target layers, and what went into the model was not seen, as "
                "its forward was called by hand; call the model itself, or run it with gradients enabled"
            )
        with self._watch.away():
            result = anew(self.model, self._layers, self._watch.seen.batch(), scores, wanted)
        with torch.no_grad():
            for index, maps in enumerate(result.activations.values()):
                self._watch.activations[index] = self._watch.maps(index, maps)
        return list(result.gradients.values())

    def _gradients(self) -> list[Tensor]:
        return [gradient for gradient in self.hook_g if gradient is not None]


def _weights(activations: Tensor, gradients: Tensor, rule: str) -> Tensor:
    """Of the channels [N, C], or of the places [N, C, ...], by a rule of the operator."""
    dtype = accumulation_type(activations.dtype)
    if rule == "layercam":
        return gradients.clamp_min(0)
    row = activations.to(dtype).flatten(2)[:, :, None]
    return reference.channel_weights(row, gradients.to(dtype).flatten(2)[:, :, None], rule)
