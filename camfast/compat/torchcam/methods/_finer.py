"""Finer-CAM: a class held against others, explained by a gradient method."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from camfast.compat.torchcam.methods._rules import GradCAM, GradCAMpp, LayerCAM
from camfast.compat.torchcam.methods._scores import wanted_of
from camfast.compat.torchcam.methods._wrapper import _CAMWrapper
from camfast.contrast import Contrast, Contrasted
from camfast.scores import contrast
from camfast.targets import Classes, Scores, check_targets


class FinerCAM(_CAMWrapper):
    """Finer-CAM (Zhang et al. 2025, https://arxiv.org/abs/2501.11309); see :class:`camfast.FinerCAM`.

    Args:
        model: any module.
        target_layer: a module or its dotted name, or a list of those; None has it found.
        input_shape: the shape of one sample, for which the layer is looked for.
        base_method: GradCAM, GradCAMpp or LayerCAM.
        gamma: how strongly the class is held against the others.
        num_references: how many others, those with the closest logits; no more than the model has.
        base_kwargs: what the base method takes besides.

    Raises:
        TypeError: another ``base_method``, numbers of another type.
        ValueError: ``gamma`` is negative or not finite, ``num_references`` is below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        *,
        base_method: type[GradCAM] | type[GradCAMpp] | type[LayerCAM] = GradCAM,
        gamma: float = 0.6,
        num_references: int = 3,
        **base_kwargs: Any,
    ) -> None:
        if base_method not in (GradCAM, GradCAMpp, LayerCAM):
            raise TypeError(f"base_method={base_method!r}; base_method must be GradCAM, GradCAMpp, or LayerCAM")
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)):
            raise TypeError(f"gamma={gamma!r}; gamma must be a real number")
        if not (math.isfinite(gamma) and gamma >= 0):
            raise ValueError(f"gamma={gamma!r}; gamma must be finite and non-negative")
        if isinstance(num_references, bool) or not isinstance(num_references, int):
            raise TypeError(f"num_references={num_references!r}; num_references must be an integer")
        if num_references < 1:
            raise ValueError(f"num_references={num_references}; num_references must be positive")
        self.gamma = float(gamma)
        self.num_references = num_references
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: int | list[int],
        scores: Tensor | None = None,
        comparison_idx: int | list[int] | list[list[int]] | None = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """As :meth:`compute_cams`."""
        return self.compute_cams(class_idx, scores, comparison_idx, normalized, **kwargs)

    def compute_cams(
        self,
        class_idx: int | list[int],
        scores: Tensor | None = None,
        comparison_idx: int | list[int] | list[list[int]] | None = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Explains the last forward pass that the hooks saw.

        Args:
            class_idx: the class to explain, or a list of one for each sample.
            scores: the output of that forward pass, [N, classes].
            comparison_idx: the classes that it is held against: one or several for all samples, or a list for each;
                None takes those with the closest logits.
            normalized: stretch every map to [0, 1].
            kwargs: what the base method takes besides.

        Returns:
            For every target layer the maps [N, h, w].

        Raises:
            ValueError: callable targets, no scores or scores of another shape, classes that the model has not, a class
                held against itself or twice against another.
            TypeError: scores or classes of another type.
        """
        if kwargs.get("targets") is not None:
            raise ValueError("FinerCAM does not support arbitrary output targets; give class_idx")
        if scores is None:
            raise ValueError("scores is required by FinerCAM: give the output of the model")
        if not isinstance(scores, Tensor):
            raise TypeError(f"scores is a {type(scores).__name__}; scores must be a tensor [N, classes]")
        if scores.dim() != 2 or scores.shape[0] < 1 or scores.shape[1] < 2:
            raise ValueError(
                f"scores has shape {list(scores.shape)}; expected [N, classes] with at least one comparison class"
            )
        kwargs["targets"] = self._objective(class_idx, comparison_idx, scores)
        return self.base_cam.compute_cams(None, scores, normalized, **kwargs)

    def _objective(self, class_idx: Any, comparison_idx: Any, scores: Tensor) -> Scores:
        wanted = wanted_of(class_idx, None, len(scores))
        assert isinstance(wanted, Classes)
        classes = wanted.resolve(scores)
        if comparison_idx is None:
            return Contrasted(Classes(classes, checked=True), Contrast(self.num_references, self.gamma, "mean"))
        return _Against(classes, _references(comparison_idx, classes, scores), self.gamma)

    def fuse_cams(self, cams: list[Tensor], target_shape: tuple[int, int] | None = None) -> Tensor:
        """As that of the base method."""
        return self.base_cam.fuse_cams(cams, target_shape)

    def __repr__(self) -> str:
        return (
            f"FinerCAM(base_method={type(self.base_cam).__name__}, target_layer={self.target_names}, "
            f"gamma={self.gamma}, num_references={self.num_references})"
        )


class _Against(Scores):
    """Classes [N], each held against others that are given, [N, R]."""

    def __init__(self, classes: Tensor, others: Tensor, gamma: float) -> None:
        self._classes = classes
        self._others = others
        self._gamma = gamma

    def score(self, output: Tensor) -> tuple[Tensor, None]:
        own = output.gather(1, self._classes[:, None])[:, 0]
        return contrast(own, output.gather(1, self._others), self._gamma), None


def _references(given: Any, classes: Tensor, scores: Tensor) -> Tensor:
    """[N, R] int64, of a class for all samples, several for all, or as many for each.

    Raises:
        ValueError: a wrong length, a class that the model has not, the class itself, or one twice.
    """
    samples = len(scores)
    if not isinstance(given, (int, list)) or isinstance(given, bool):
        raise TypeError(
            f"comparison_idx is a {type(given).__name__}; comparison_idx must be an integer, a list, or a nested list"
        )
    if given == []:
        raise ValueError("comparison_idx cannot be empty; leave it out to have the closest classes taken")
    rows = given if isinstance(given, list) and isinstance(given[0], list) else [given] * samples
    rows = [row if isinstance(row, list) else [row] for row in rows]
    try:
        references = check_targets(rows, samples)
        assert isinstance(references, Classes)
        assert references.indices is not None
        references.check(scores.shape[1])
    except ValueError as error:
        raise ValueError(f"comparison_idx={given!r}: {error}") from None
    for sample, (row, own) in enumerate(zip(rows, classes.tolist(), strict=True)):
        if own in row:
            raise ValueError(f"comparison_idx contains the target class {own} itself, for sample {sample}")
        if len(set(row)) < len(row):
            raise ValueError(f"comparison_idx contains duplicates for sample {sample}: {row}")
    return torch.as_tensor(references.indices, device=scores.device)
