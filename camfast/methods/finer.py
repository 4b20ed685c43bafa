"""Finer-CAM: what speaks for a class and not for those like it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from camfast.contrast import Contrast, Contrasted
from camfast.explainer import Size
from camfast.explanation import Explanation
from camfast.inputs import Inputs, check_inputs
from camfast.layers import Layers
from camfast.methods.composite import Composite
from camfast.options import check_count
from camfast.targets import Scores, Target, check_targets


class FinerCAM(Composite):
    """Finer-CAM (Zhang et al. 2025, https://arxiv.org/abs/2501.11309).

    A gradient method explains ``s - alpha * r`` in place of the logit ``s``, with ``r`` the mean of the logits closest
    to it: what several classes share cancels out.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`.
        base: the gradient method, by name or class; ``"gradcam"`` unless given.
        references: with how many other classes each is compared; fewer where the model has fewer.
        alpha: how strongly.
        weighting: ``"mean"``, as in the paper; ``"probability"`` weighs every difference by how likely the other class
            is, as the authors' code does (there with an alpha of 1).
        options: as for the method.

    Raises:
        ValueError: a ``base`` without gradients, ``references`` below 1, an ``alpha`` that is negative or not finite,
            an unknown ``weighting``; in a call, targets that are callables.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        references: int = 3,
        alpha: float = 0.6,
        weighting: Literal["mean", "probability"] = "mean",
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **options)
        if weighting not in ("mean", "probability"):
            raise ValueError(f"weighting={weighting!r}; expected 'mean' or 'probability'")
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"alpha={alpha!r}; expected a finite number of at least 0")
        self._contrast = Contrast(check_count("references", references), alpha, weighting)
        self.parameters = {"references": references, "alpha": alpha, "weighting": weighting}

    @staticmethod
    def _why_not(base: Any) -> str | None:
        if getattr(base, "uses_gradients", True):
            return None
        return "looks at no gradient, and so has nothing to hold against other classes"

    def _explain(self, x: Inputs, targets: Target, size: Size | None, normalize: bool) -> Explanation:
        classes = check_targets(targets, len(check_inputs(x)))
        if isinstance(classes, Scores):
            raise ValueError("targets are callables, which FinerCAM cannot hold against others; give classes")
        return self.engine.explain(x, Contrasted(classes, self._contrast), size=size, normalize=normalize)
