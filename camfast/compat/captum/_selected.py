"""captum's targets: which value of every sample's output is explained."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from camfast.targets import Scores

_EXPECTED = "expected a class, a tuple of indices into one sample's output, a list of N of either, or an integer tensor"


class Selected(Scores):
    """A target of captum's, as what passes through a model take: a function of the whole output.

    Args:
        target: None (the output has one value a sample), an index (negative ones count from the end), a tuple of
            indices into one sample's output, a list of N of either, an integer tensor of one index or of N.
    """

    def __init__(self, target: Any) -> None:
        super().__init__([])
        self._target = target

    def score(self, output: Tensor) -> tuple[Tensor, None]:
        """The selected values, in one dimension.

        Raises:
            ValueError: an index out of range, a list of a wrong length, more than one value a sample.
        """
        chosen = _chosen(output, self._target)
        samples = len(chosen) if chosen.dim() else 1
        if chosen.numel() != samples:
            raise ValueError(
                f"target={self._target!r} selects {list(chosen.shape[1:])} values of every sample, of an output "
                f"{list(output.shape)}, where one is explained; {_EXPECTED}"
            )
        return chosen.reshape(-1), None


def output_tensor(returned: Any) -> Tensor:
    """What the model returned, if it is a floating tensor.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(returned, Tensor) and returned.is_floating_point():
        return returned
    found = f"a {returned.dtype} tensor" if isinstance(returned, Tensor) else f"a {type(returned).__name__}"
    raise TypeError(
        f"forward_func returned {found}; expected a floating tensor: give a function that takes it out of what the "
        "model returns, as lambda x: model(x)['logits']"
    )


def _chosen(output: Tensor, target: Any) -> Tensor:
    if target is None:
        return output
    if isinstance(target, Tensor):
        target = _numbers(target)
    if isinstance(target, list):
        return _one_each(output, target)
    place: tuple[int | slice, ...] = (slice(None), *_indices("target", target, output))
    return output[place]


def _numbers(target: Tensor) -> int | list[int]:
    """A tensor of one index, for all samples, or of one for each."""
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target has dtype {target.dtype}; expected whole numbers, as in a LongTensor [N]")
    if target.numel() == 1:
        return int(target.item())
    if target.dim() != 1:
        raise ValueError(f"target has shape {list(target.shape)}; expected one index, or [N]")
    numbers: list[int] = target.tolist()
    return numbers


def _one_each(output: Tensor, target: list[Any]) -> Tensor:
    """The value of every sample that an index of its own selects."""
    samples = len(output) if output.dim() else 0
    if len(target) != samples:
        raise ValueError(
            f"target has {len(target)} entries for an output of {samples} samples; expected one per sample"
        )
    rows = [_indices(f"target[{i}]", index, output) for i, index in enumerate(target)]
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"target[{i}] has {len(row)} indices and target[0] has {len(rows[0])}; expected as many")
    columns = torch.tensor(rows, device=output.device, dtype=torch.int64).unbind(1) if rows else ()
    place: tuple[Tensor, ...] = (torch.arange(samples, device=output.device), *columns)
    return output[place]


def _indices(name: str, value: Any, output: Tensor) -> tuple[int, ...]:
    """Indices into one sample's output, checked."""
    sizes = output.shape[1:]
    given = value if isinstance(value, tuple) else (value,)
    try:
        indices = tuple(map(operator.index, given))
    except TypeError:
        raise ValueError(f"{name}={value!r} is a {type(value).__name__}; {_EXPECTED}") from None
    if len(indices) > len(sizes):
        raise ValueError(
            f"{name}={value!r} has {len(indices)} indices, but a sample's output has {len(sizes)} dimensions, "
            f"{list(sizes)}"
        )
    for index, size in zip(indices, sizes, strict=False):
        if not -size <= index < size:
            raise ValueError(f"{name}={value!r} is out of range; expected {-size} to {size - 1} in an output of {size}")
    return indices
