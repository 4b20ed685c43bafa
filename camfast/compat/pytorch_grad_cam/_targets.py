"""Targets of pytorch-grad-cam as camfast has them, so that classes go the fast way."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camfast.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from camfast.dense_scores import SegmentationTarget
from camfast.scores import BatchTarget, ReSTTarget, SoftmaxTarget
from camfast.targets import Classes, Scores

_MODULE = "pytorch_grad_cam.utils.model_targets"
_SHARED: dict[str, Callable[[Any], BatchTarget]] = {
    "ClassifierOutputSoftmaxTarget": lambda target: SoftmaxTarget(target.category),
    "ClassifierOutputReST": lambda target: ReSTTarget(target.category),
    "SemanticSegmentationTarget": lambda target: SegmentationTarget(target.category, target.mask),
}
"""What scores a whole batch, where all samples have the same target."""


def translated(targets: Any) -> Any:
    """Targets as an engine of camfast takes them.

    A list of ``ClassifierOutputTarget`` becomes a list of classes, also where it is the class of the peer itself. All
    else is left: callables, classes, None.
    """
    if isinstance(targets, (Classes, Scores, Tensor)) or not hasattr(targets, "__iter__"):
        return targets
    given = list(targets)
    classes = [_category(target) for target in given]
    if given and all(category is not None for category in classes):
        return classes
    if given and all(target is given[0] for target in given):
        return [_shared(given[0])] * len(given)
    return given


def as_callables(targets: Classes | Scores, classes: Tensor | None, output: Tensor) -> list[Callable[[Any], Any]]:
    """What a method of the user's gets as its targets: one callable a sample."""
    if isinstance(targets, Scores):
        listed = getattr(targets, "listed", None)
        return list(targets.functions) if listed is None else listed(output)
    assert classes is not None  # as they are classes
    return [ClassifierOutputTarget(category) for category in classes.tolist()]


def unused(samples: int) -> Scores:
    """Targets for methods that look at none, whatever the model puts out."""
    return Scores([torch.sum] * samples)


def _category(target: Any) -> int | None:
    """The class of a ``ClassifierOutputTarget``; None for all else, and for classes that are counted from the end."""
    if not _is_of_theirs(target) or type(target).__name__ != "ClassifierOutputTarget":
        return None
    try:
        category = operator.index(target.category)
    except TypeError:
        return None
    return category if category >= 0 else None


def _shared(target: Any) -> Any:
    make = _SHARED.get(type(target).__name__) if _is_of_theirs(target) else None
    if make is None:
        return target
    try:
        return make(target)
    except ValueError:  # which camfast's own are stricter about
        return target


def _is_of_theirs(target: Any) -> bool:
    """By its name: the same module may have been imported under two names."""
    return type(target).__module__.endswith(_MODULE)


def check_length(targets: Sequence[Any], samples: int) -> None:
    """Raises ValueError where there is not one target a sample."""
    if len(targets) != samples:
        raise ValueError(f"targets has {len(targets)} entries for a batch of {samples}; expected one per sample")
