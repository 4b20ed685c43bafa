"""What is explained: classes of every sample, or any scalar that the user computes from a sample's output."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from camfast.outputs import PerSample
from camfast.scores import BatchTarget, LogitTarget


@dataclass(frozen=True)
class TopK:
    """The ``k`` classes with the highest logits of every sample, the highest first.

    >>> camfast.GradCAM(model)(x, camfast.TopK(5)).shape  # doctest: +SKIP
    torch.Size([8, 5, 224, 224])

    Raises:
        ValueError: ``k`` is not a whole number of at least 1.
    """

    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k={self.k!r} of TopK; expected a whole number of at least 1")


Target: TypeAlias = (
    "int | Sequence[int] | Sequence[Sequence[int]] | Tensor | TopK | Callable[[Tensor], Tensor] | "
    "Sequence[Callable[[Tensor], Tensor]] | Classes | Scores | None"
)

_EXPECTED = (
    "expected None, a class, a sequence of N classes (or of N lists of K), a LongTensor [N] or [N, K], TopK, "
    "or callables"
)


class Classes:
    """One class a sample, or K: given, or chosen by the output."""

    def __init__(self, indices: Tensor | None, top: int | None = None, checked: bool = False) -> None:
        self.indices = indices
        """[N] or [N, K]; None for the classes with the highest logits."""
        self.top = top
        """How many of the highest; None for the predicted class alone."""
        self._checked = checked

    @property
    def several(self) -> bool:
        """Whether every sample has K classes, be it one."""
        return self.top is not None or (self.indices is not None and self.indices.dim() == 2)

    def resolve(self, output: Tensor) -> Tensor:
        """The classes of every sample, [N] or [N, K], int64 on the device of the output."""
        if isinstance(output, PerSample):
            raise ValueError(
                f"the model returns a list of {len(output)}, one entry a sample, which has no classes; give targets as "
                "callables that map an entry to a scalar (BoxTarget, say)"
            )
        if output.dim() != 2:
            raise ValueError(
                f"the model's output has shape {list(output.shape)}; expected [N, classes]. Give targets as callables "
                "that map one sample's output to a scalar"
            )
        classes = output.shape[1]
        if self.indices is None:
            if classes == 0:
                raise ValueError("the model's output has no classes")
            if self.top is None:
                return output.argmax(dim=1)
            if self.top > classes:
                raise ValueError(f"targets is TopK({self.top}), but the model has {classes} classes")
            return output.topk(self.top, dim=1).indices
        if not self._checked:
            self.check(classes)
        # A copy: the result is not the user's tensor, and not one that inference mode keeps from autograd.
        return self.indices.to(output.device, non_blocking=True, copy=True)

    def check(self, classes: int) -> None:
        """Raises ValueError where a class is given that the model has not.

        Looking at classes that live on a CUDA device waits for it; a list or an int does not.
        """
        given = self.indices
        if given is not None and given.numel() and not (int(given.min()) >= 0 and int(given.max()) < classes):
            wrong = next(int(i) for i in given.flatten() if not 0 <= int(i) < classes)
            raise ValueError(
                f"targets has class {wrong}; expected 0 to {classes - 1}, as the model has {classes} classes"
            )

    @property
    def form(self) -> tuple[Any, ...]:
        """What does not depend on which classes are given: how many of each sample, or how many of the highest."""
        return self.top, None if self.indices is None else self.indices.shape[1:]

    def score(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the classes, and the classes; both [N] or [N, K]."""
        indices = self.resolve(output)
        return output.gather(1, indices.reshape(len(indices), -1)).reshape(indices.shape), indices

    def part(self, begin: int, end: int) -> Classes:
        """Those of some of the samples."""
        return self if self.indices is None else Classes(self.indices[begin:end])

    def repeated(self, times: int) -> Classes:
        """Those of the whole batch, so many times."""
        return self if self.indices is None else Classes(self.indices.repeat(times, *[1] * (self.indices.dim() - 1)))

    def padded(self, samples: int) -> Classes:
        """Those of a batch whose last sample is repeated until there are so many."""
        if self.indices is None or len(self.indices) == samples:
            return self
        last = self.indices[-1:].expand(samples - len(self.indices), *self.indices.shape[1:])
        return Classes(torch.cat([self.indices, last]))


class Scores:
    """One callable a sample."""

    def __init__(self, functions: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.functions = functions

    def score(self, output: Tensor) -> tuple[Tensor, None]:
        """What the callables make of the output, [N]."""
        if output.dim() == 0 or output.shape[0] != len(self.functions):
            raise ValueError(
                f"the model's output has shape {list(output.shape)}; expected {len(self.functions)} samples along dim 0"
            )
        shared = self.functions[0] if self.functions else None
        if isinstance(shared, BatchTarget) and all(function is shared for function in self.functions):
            return shared.of_batch(output), None
        return torch.stack([self._scalar(i, f, output[i]) for i, f in enumerate(self.functions)]), None

    def part(self, begin: int, end: int) -> Scores:
        """Those of some of the samples."""
        return Scores(self.functions[begin:end])

    def repeated(self, times: int) -> Scores:
        """Those of the whole batch, so many times."""
        return Scores([*self.functions] * times)

    def padded(self, samples: int) -> Scores:
        """Those of a batch whose last sample is repeated until there are so many."""
        return Scores([*self.functions, *[self.functions[-1]] * (samples - len(self.functions))])

    @staticmethod
    def _scalar(index: int, function: Callable[[Tensor], Tensor], sample: Tensor) -> Tensor:
        score = function(sample)
        if not isinstance(score, Tensor) or score.numel() != 1:
            found = list(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                f"targets[{index}] returned {found}; expected a scalar tensor made from the sample's output"
            )
        return score.reshape(())


def check_targets(targets: Any, samples: int) -> Classes | Scores:
    """Targets in one of two forms, checked as far as is possible before the model has run.

    Raises:
        ValueError: a wrong length, or something that is neither a class nor a callable.
    """
    if isinstance(targets, (Classes, Scores)):
        return targets
    if targets is None:
        return Classes(None)
    if isinstance(targets, TopK):
        return Classes(None, targets.k)
    if isinstance(targets, LogitTarget):
        return Classes(torch.full((samples,), targets.category))
    if callable(targets) and not isinstance(targets, Tensor):
        return Scores([targets] * samples)
    if isinstance(targets, Tensor):
        return Classes(_check_tensor(targets, samples))
    if is_sequence(targets):
        given = list(targets)
        _check_length(len(given), samples)
        if given and all(isinstance(target, LogitTarget) for target in given):
            return Classes(torch.tensor([target.category for target in given], dtype=torch.int64))
        if given and all(map(callable, given)):
            return Scores(given)
        if any(map(callable, given)):
            raise ValueError("targets mixes callables and classes; give the one or the other for every sample")
        if any(map(is_sequence, given)):
            return Classes(_check_lists(given))
        return Classes(torch.tensor([_class_index(f"targets[{i}]", t) for i, t in enumerate(given)], dtype=torch.int64))
    return Classes(torch.full((samples,), _class_index("targets", targets)))


def is_sequence(value: Any) -> bool:
    """Whether targets are given one by one."""
    if isinstance(value, (str, bytes)) or (isinstance(value, Tensor) and value.dim() == 0):
        return False
    return hasattr(value, "__len__") and hasattr(value, "__iter__")


def _check_length(given: int, samples: int) -> None:
    if given != samples:
        raise ValueError(f"targets has {given} entries for a batch of {samples}; expected one per sample")


def _check_lists(given: list[Any]) -> Tensor:
    """[N, K], of N sequences of K classes."""
    for i, classes in enumerate(given):
        if not is_sequence(classes):
            raise ValueError(
                f"targets[{i}]={classes!r} is one class where others are lists; give lists for all samples"
            )
        if len(classes) != len(given[0]):
            raise ValueError(
                f"targets[{i}] has {len(classes)} classes and targets[0] has {len(given[0])}; expected as many for "
                "every sample"
            )
    if len(given[0]) == 0:
        raise ValueError("targets[0] has no classes; expected at least 1 for every sample")
    rows = [[_class_index(f"targets[{i}][{k}]", c) for k, c in enumerate(row)] for i, row in enumerate(given)]
    return torch.tensor(rows, dtype=torch.int64)


def _check_tensor(targets: Tensor, samples: int) -> Tensor:
    if targets.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise ValueError(f"targets has dtype {targets.dtype}; expected whole numbers, as in a LongTensor [N]")
    if targets.dim() == 0:
        return targets.to(torch.int64).expand(samples)
    if targets.dim() > 2 or (targets.dim() == 2 and targets.shape[1] == 0):
        raise ValueError(f"targets has shape {list(targets.shape)}; expected [N] = [{samples}], or [N, K]")
    _check_length(len(targets), samples)
    return targets.to(torch.int64)


def _class_index(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is a bool; {_EXPECTED}")
    try:
        index = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} is a {type(value).__name__}; {_EXPECTED}") from None
    if not 0 <= index < 2**63:
        raise ValueError(f"{name}={index} is out of range; expected a class index of at least 0")
    return index
