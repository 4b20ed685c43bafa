"""What can be explained beside a class: each target maps one sample's output to a scalar.

One target serves all samples of a batch; for one each, give a list of them.

>>> camfast.GradCAM(model)(x, SoftmaxTarget(281))                           # doctest: +SKIP
>>> camfast.GradCAM(model, output="out")(x, SegmentationTarget(15, mask))   # doctest: +SKIP
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from camfast.categories import set_categories, set_category


class BatchTarget(ABC):
    """A target that also scores a whole batch in one go, where all samples share it."""

    def __call__(self, output: Tensor) -> Tensor:
        """The score of one sample's output, a scalar."""
        return self.of_batch(output[None])[0]

    @abstractmethod
    def of_batch(self, output: Tensor) -> Tensor:
        """The scores [N] of the outputs [N, ...] of a batch."""


@dataclass(frozen=True)
class LogitTarget(BatchTarget):
    """The logit of a class; the same as to give the class itself, and as fast.

    Args:
        category: the class.
    """

    category: int

    def __post_init__(self) -> None:
        set_category(self, self.category)

    def of_batch(self, output: Tensor) -> Tensor:
        return _logits(self, output, [self.category])[:, self.category]


@dataclass(frozen=True)
class SoftmaxTarget(BatchTarget):
    """The probability of a class among all: what lowers the others speaks for it, too.

    Args:
        category: the class.
        log: the logarithm of the probability, whose gradient does not vanish where the model is sure.
    """

    category: int
    log: bool = False

    def __post_init__(self) -> None:
        set_category(self, self.category)

    def of_batch(self, output: Tensor) -> Tensor:
        logits = _logits(self, output, [self.category])
        made = logits.log_softmax(dim=1) if self.log else logits.softmax(dim=1)
        return made[:, self.category]


@dataclass(frozen=True)
class ReSTTarget(BatchTarget):
    """The logit of a class plus the logarithm of its probability (Cai 2025, https://arxiv.org/abs/2501.06261).

    Args:
        category: the class.
    """

    category: int

    def __post_init__(self) -> None:
        set_category(self, self.category)

    def of_batch(self, output: Tensor) -> Tensor:
        logits = _logits(self, output, [self.category])
        return (logits + logits.log_softmax(dim=1))[:, self.category]


@dataclass(frozen=True)
class BinaryTarget(BatchTarget):
    """What speaks for one of two classes, of a model with one logit a sample.

    Args:
        category: 1 for the logit, 0 for its negative.
    """

    category: int

    def __post_init__(self) -> None:
        if isinstance(self.category, bool) or self.category not in (0, 1):
            raise ValueError(f"category={self.category!r} of BinaryTarget; expected 0 or 1")

    def of_batch(self, output: Tensor) -> Tensor:
        single = _single(self, output)
        return single if self.category == 1 else -single


@dataclass(frozen=True)
class RawTarget(BatchTarget):
    """The output itself, of a model that puts out one number a sample: a regression, a quality score."""

    def of_batch(self, output: Tensor) -> Tensor:
        return _single(self, output)


@dataclass(frozen=True)
class MultiLabelTarget(BatchTarget):
    """Several logits as one score, of a model whose classes do not exclude each other.

    Args:
        categories: the classes.
        signs: 1 or -1 for each: for it or against it. None for all of them.
        mean: the mean of them; otherwise the sum.
    """

    categories: Sequence[int]
    signs: Sequence[int] | None = None
    mean: bool = False

    def __post_init__(self) -> None:
        set_categories(self, "categories", self.categories)
        if self.signs is not None:
            if len(self.signs) != len(self.categories) or any(sign not in (1, -1) for sign in self.signs):
                raise ValueError(
                    f"signs={self.signs!r} of MultiLabelTarget; expected 1 or -1 for each of the "
                    f"{len(self.categories)} categories, or None"
                )
            object.__setattr__(self, "signs", tuple(self.signs))

    def of_batch(self, output: Tensor) -> Tensor:
        chosen = _logits(self, output, self.categories)[:, list(self.categories)]
        if self.signs is not None:
            chosen = chosen * chosen.new_tensor(self.signs)
        return chosen.mean(dim=1) if self.mean else chosen.sum(dim=1)


@dataclass(frozen=True)
class ContrastTarget(BatchTarget):
    """What speaks for a class and not for others, as in Finer-CAM (Zhang et al. 2025, https://arxiv.org/abs/2501.11309).

    ``s - alpha * r`` with ``s`` the logit of the class and ``r`` the mean of those of the others, each counting the
    same, or as likely as it is.

    Args:
        category: the class.
        others: classes that it is held against.
        alpha: how strongly, at least 0.
        weighting: ``"mean"``, or ``"probability"``.
    """

    category: int
    others: Sequence[int]
    alpha: float = 0.6
    weighting: Literal["mean", "probability"] = "mean"

    def __post_init__(self) -> None:
        set_category(self, self.category)
        set_categories(self, "others", self.others)
        if self.category in self.others:
            raise ValueError(f"others={self.others!r} of ContrastTarget has category {self.category} itself")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha={self.alpha!r} of ContrastTarget; expected a finite number of at least 0")
        if self.weighting not in ("mean", "probability"):
            raise ValueError(f"weighting={self.weighting!r} of ContrastTarget; expected 'mean' or 'probability'")

    def of_batch(self, output: Tensor) -> Tensor:
        logits = _logits(self, output, [self.category, *self.others])
        chosen = list(self.others)
        likely = logits.softmax(dim=1)[:, chosen] if self.weighting == "probability" else None
        return contrast(logits[:, self.category], logits[:, chosen], self.alpha, likely)


def contrast(own: Tensor, others: Tensor, alpha: float, likely: Tensor | None = None) -> Tensor:
    """``own - alpha * mean of the others``, of logits [...] and [..., R].

    Args:
        likely: [..., R]: how much each of the others counts; the same where it is None.
    """
    if likely is None:
        return own - alpha * others.mean(dim=-1)
    return (likely * (own[..., None] - alpha * others)).sum(dim=-1) / (likely.sum(dim=-1) + 1e-9)


@dataclass(frozen=True, eq=False)
class SimilarityTarget(BatchTarget):
    """How alike an embedding is to another: the cosine of the angle between them, from -1 to 1.

    Args:
        reference: [D], the output of the model for another image, say.
    """

    reference: Tensor

    def __post_init__(self) -> None:
        reference = torch.as_tensor(self.reference).detach().clone()
        if reference.dim() != 1 or not bool(reference.isfinite().all()) or not bool(reference.any()):
            raise ValueError(
                f"reference of {type(self).__name__} has shape {list(reference.shape)}; expected an embedding [D] of "
                "finite numbers that are not all zero"
            )
        object.__setattr__(self, "reference", reference)

    def of_batch(self, output: Tensor) -> Tensor:
        embeddings = output.flatten(1)
        if embeddings.shape[1] != len(self.reference):
            raise ValueError(
                f"reference of {type(self).__name__} has {len(self.reference)} numbers, and the model's output has "
                f"{embeddings.shape[1]} a sample; expected as many"
            )
        return cosine_similarity(embeddings, self.reference.to(embeddings)[None], dim=1)


@dataclass(frozen=True, eq=False)
class DifferenceTarget(SimilarityTarget):
    """How different an embedding is from another: 1 minus the cosine of the angle between them, from 0 to 2.

    Args:
        reference: [D], the output of the model for another image, say.
    """

    def of_batch(self, output: Tensor) -> Tensor:
        return 1 - super().of_batch(output)


def _logits(target: BatchTarget, output: Tensor, categories: Sequence[int]) -> Tensor:
    """The output, if it is [N, classes] and has these classes."""
    if output.dim() != 2:
        raise ValueError(
            f"{target} is about the logits [classes] of a sample, and the model's output for one is "
            f"{list(output.shape[1:])}; choose them with output=, or use another target"
        )
    wrong = [category for category in categories if category >= output.shape[1]]
    if wrong:
        raise ValueError(f"{target} has class {wrong[0]}; expected 0 to {output.shape[1] - 1}, as the model has them")
    return output


def _single(target: BatchTarget, output: Tensor) -> Tensor:
    if output[0].numel() != 1:
        raise ValueError(
            f"{target} is about one number a sample, and the model's output for one is {list(output.shape[1:])}; "
            "use LogitTarget for one of several"
        )
    return output.flatten()
