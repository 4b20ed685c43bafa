"""What is explained: a class of every sample, or any scalar that the user computes from a sample's output."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Target: TypeAlias = (
    "int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]] | None"
)

_EXPECTED = "expected None, a class, a sequence of N classes, a LongTensor [N], or callables"


class Classes:
    """One class a sample; None stands for the predicted class."""

    def __init__(self, indices: Tensor | None) -> None:
        self.indices = indices

    def resolve(self, output: Tensor) -> Tensor:
        """The class of every sample, [N] int64 on the device of the output."""
        if output.dim() != 2:
            raise ValueError(
                f"the model's output has shape {list(output.shape)}; expected [N, classes]. Give targets as callables "
                "that map one sample's output to a scalar"
            )
        classes = output.shape[1]
        if self.indices is None:
            if classes == 0:
                raise ValueError("the model's output has no classes")
            return output.argmax(dim=1)
        # Looking at classes that live on a CUDA device waits for it; a list or an int does not.
        if len(self.indices) and not (int(self.indices.min()) >= 0 and int(self.indices.max()) < classes):
            wrong = next(int(i) for i in self.indices if not 0 <= int(i) < classes)
            raise ValueError(
                f"targets has class {wrong}; expected 0 to {classes - 1}, as the model has {classes} classes"
            )
        # A copy: the result is not the user's tensor, and not one that inference mode keeps from autograd.
        return self.indices.to(output.device, non_blocking=True, copy=True)

    def score(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the classes, [N], and the classes."""
        indices = self.resolve(output)
        return output.gather(1, indices[:, None])[:, 0], indices


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
        return torch.stack([self._scalar(i, f, output[i]) for i, f in enumerate(self.functions)]), None

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
    if targets is None:
        return Classes(None)
    if callable(targets) and not isinstance(targets, Tensor):
        return Scores([targets] * samples)
    if isinstance(targets, Tensor):
        return Classes(_check_tensor(targets, samples))
    if not isinstance(targets, (str, bytes)) and hasattr(targets, "__len__") and hasattr(targets, "__iter__"):
        given = list(targets)
        _check_length(len(given), samples)
        if given and all(map(callable, given)):
            return Scores(given)
        if any(map(callable, given)):
            raise ValueError("targets mixes callables and classes; give the one or the other for every sample")
        return Classes(torch.tensor([_class_index(f"targets[{i}]", t) for i, t in enumerate(given)], dtype=torch.int64))
    return Classes(torch.full((samples,), _class_index("targets", targets)))


def _check_length(given: int, samples: int) -> None:
    if given != samples:
        raise ValueError(f"targets has {given} entries for a batch of {samples}; expected one per sample")


def _check_tensor(targets: Tensor, samples: int) -> Tensor:
    if targets.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise ValueError(f"targets has dtype {targets.dtype}; expected whole numbers, as in a LongTensor [N]")
    if targets.dim() == 0:
        return targets.to(torch.int64).expand(samples)
    if targets.dim() != 1:
        raise ValueError(f"targets has shape {list(targets.shape)}; expected [N] = [{samples}]")
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
