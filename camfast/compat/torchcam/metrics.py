"""How good the maps of an extractor are, batch by batch; by :mod:`camfast.metrics`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from camfast.compat._missing import NamesNearest, missing
from camfast.compat.torchcam._judged import Extractor, judged
from camfast.metrics.confidence import masked_scores
from camfast.metrics.deletion import deletion_of, insertion_of

__all__ = ["ClassificationMetric", "DeletionInsertionMetric"]

__getattr__ = missing(__name__)


class ClassificationMetric(NamesNearest):
    """Average drop and increase in confidence (Chattopadhyay et al. 2018, https://arxiv.org/abs/1710.11063).

    See :func:`camfast.metrics.average_drop` and :func:`camfast.metrics.increase_in_confidence`, which take heatmaps.

    >>> metric = ClassificationMetric(cam_extractor, partial(torch.softmax, dim=-1))  # doctest: +SKIP
    >>> metric.update(input_tensor)  # doctest: +SKIP
    >>> metric.summary()  # doctest: +SKIP

    Args:
        cam_extractor: an extractor, its hooks on the model.
        logits_fn: makes scores of the model's output; None takes the output itself. With scores that may be negative
            there is no share to lose: then, a RuntimeWarning says so.
    """

    def __init__(self, cam_extractor: Extractor, logits_fn: Callable[[Any], Any] | None = None) -> None:
        self.cam_extractor = cam_extractor
        self.logits_fn = logits_fn
        self.reset()

    def update(self, input_tensor: Tensor, class_idx: int | list[int] | None = None, *, targets: Any = None) -> None:
        """Explains a batch, and counts what becomes of the scores where only what is hot is left.

        Args:
            input_tensor: [N, C, H, W], as the model takes it.
            class_idx: the class, or a list of one for each sample; None for the predicted ones.
            targets: in place of that: a callable from one sample's output to a scalar tensor, or a list of them.

        Raises:
            ValueError: both were given, a class that the model has not, a wrong length.
        """
        with judged(self.cam_extractor, self.logits_fn, input_tensor, class_idx, targets) as case:
            before, after = case.scorer.original, masked_scores(case)
        counted = case.maps.finite & ~(before.isnan() | after.isnan())
        before, after = before[counted], after[counted]
        if bool((before <= 0).any()):
            warnings.warn(
                "ClassificationMetric: a score is not above 0 and has no share to lose, so avg_drop means nothing; "
                "give logits_fn, for example functools.partial(torch.softmax, dim=-1)",
                RuntimeWarning,
                stacklevel=2,
            )
        self.drop += float(((before - after).clamp_min(0) / (before + 1e-7)).sum())
        self.increase += float((before < after).sum())
        self.total += len(before)
        self.nan_count += len(counted) - len(before)

    def summary(self) -> dict[str, float]:
        """``avg_drop`` (lower is better) and ``conf_increase`` (higher is better), over all samples.

        Raises:
            AssertionError: no sample was counted.
        """
        _check_total(self.total)
        return {"avg_drop": self.drop / self.total, "conf_increase": self.increase / self.total}

    def reset(self) -> None:
        """Forgets all samples."""
        self.drop = 0.0
        self.increase = 0.0
        self.total = 0
        self.nan_count = 0
        """Samples without a finite map or score, which count in nothing else."""


class DeletionInsertionMetric(NamesNearest):
    """Deletion and insertion (Petsiuk et al. 2018, RISE, https://arxiv.org/abs/1806.07421).

    See :func:`camfast.metrics.deletion` and :func:`camfast.metrics.insertion`, which take heatmaps.

    Args:
        cam_extractor: an extractor, its hooks on the model.
        logits_fn: makes scores of the model's output; None takes the output itself.
        steps: how many times pixels are replaced, at most.
        baseline: what they are replaced by: a tensor that broadcasts to the images, or a callable that makes one of
            them; None for zeros.
        batch_size: how many images run together.

    Raises:
        TypeError: an argument of another type.
        ValueError: ``steps`` or ``batch_size`` is below 1.
    """

    def __init__(
        self,
        cam_extractor: Extractor,
        logits_fn: Callable[[Any], Any] | None = None,
        *,
        steps: int = 20,
        baseline: Tensor | Callable[[Tensor], Tensor] | None = None,
        batch_size: int = 32,
    ) -> None:
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}={value!r}; {name} must be an integer")
            if value < 1:
                raise ValueError(f"{name}={value}; {name} must be positive")
        if not (baseline is None or isinstance(baseline, Tensor) or callable(baseline)):
            raise TypeError(f"baseline is a {type(baseline).__name__}; baseline must be a tensor, a callable, or None")
        self.cam_extractor = cam_extractor
        self.logits_fn = logits_fn
        self.steps = steps
        self.baseline = baseline
        self.batch_size = batch_size
        self.reset()

    def update(self, input_tensor: Tensor, class_idx: int | list[int] | None = None, *, targets: Any = None) -> None:
        """Explains a batch, and counts how the scores fall as its hottest pixels go, and rise as they come.

        Args:
            input_tensor, class_idx, targets: as in :meth:`ClassificationMetric.update`.

        Raises:
            ValueError: as there; a baseline that does not broadcast to the images.
        """
        points = _points(self.steps, input_tensor[0, 0].numel())
        arguments = (self.cam_extractor, self.logits_fn, input_tensor, class_idx, targets, self.batch_size)
        with judged(*arguments) as case, torch.no_grad():
            baseline = self._baseline(input_tensor)
            deleted = deletion_of(case, steps=points, baseline=baseline).values
            inserted = insertion_of(case, steps=points, baseline=baseline).values
        counted = ~(deleted.isnan() | inserted.isnan())
        self.deletion += float(deleted[counted].sum())
        self.insertion += float(inserted[counted].sum())
        self.total += int(counted.sum())
        self.nan_count += int((~counted).sum())

    def _baseline(self, images: Tensor) -> Tensor:
        if self.baseline is None:
            return images.new_zeros(())
        made = self.baseline if isinstance(self.baseline, Tensor) else self.baseline(images)
        if not isinstance(made, Tensor):
            raise TypeError(f"baseline made a {type(made).__name__}; baseline callable must return a tensor")
        try:
            return made.to(images).broadcast_to(images.shape)
        except RuntimeError:
            raise ValueError(
                f"baseline has shape {list(made.shape)}; baseline must be broadcastable to the input, "
                f"{list(images.shape)}"
            ) from None

    def summary(self) -> dict[str, float]:
        """``deletion_auc`` (lower is better) and ``insertion_auc`` (higher is better), over all samples.

        Raises:
            AssertionError: no sample was counted.
        """
        _check_total(self.total)
        return {"deletion_auc": self.deletion / self.total, "insertion_auc": self.insertion / self.total}

    def reset(self) -> None:
        """Forgets all samples."""
        self.deletion = 0.0
        self.insertion = 0.0
        self.total = 0
        self.nan_count = 0
        """Samples without a finite map or score, which count in nothing else."""


def _points(steps: int, pixels: int) -> list[int]:
    """How many pixels are replaced at each point: the same number more each time, but for the last one."""
    each = -(-pixels // steps)
    return [*range(0, pixels, each), pixels]


def _check_total(total: int) -> None:
    if total == 0:
        raise AssertionError("no sample was counted: you need to update the metric before getting the summary")
