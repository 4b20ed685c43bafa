"""The output to explain, of whatever a model returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from camfast.trees import mapped

Selector = str | int | Callable[[Any], Any]


class PerSample(list[Any]):
    """What a detector returns: a list with one entry a sample, each a dict of boxes, labels and scores, say.

    It stands where otherwise the output tensor does, as one with a single dimension.
    """

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self)])

    def dim(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return PerSample(found) if isinstance(index, slice) else found

    def map(self, function: Callable[[Tensor], Tensor]) -> PerSample:
        """With every floating tensor in it replaced."""
        return PerSample(mapped(function, list(self)))

    def detach(self) -> PerSample:
        return self.map(torch.Tensor.detach)


@dataclass(frozen=True)
class Chosen:
    """What an engine's argument ``output`` chooses."""

    output: Selector | None
    engine: str
    """The name of its class, for the remedy in an error."""

    def select(self, returned: Any) -> Tensor:
        """The chosen tensor; or a :class:`PerSample`, where that is a list of dicts, or any list by a callable.

        Raises:
            TypeError: what is chosen is neither.
            ValueError: the model returns nothing of that key or index.
        """
        try:
            selected = self.pick(returned)
        except (KeyError, IndexError, TypeError):
            if callable(self.output):
                raise
            raise ValueError(f"output={self.output!r} is not in the model's output, {_describe(returned)}") from None
        if self._is_per_sample(selected):
            return cast(Tensor, PerSample(selected))
        if not isinstance(selected, Tensor):
            example = repr(next(iter(selected))) if isinstance(selected, Mapping) and selected else "0"
            raise TypeError(
                f"the model's output is {_describe(selected)}; expected a tensor. "
                f"Select one: {self.engine}(model, output={example}), or output=a callable"
            )
        return selected

    def _is_per_sample(self, selected: Any) -> bool:
        """A tuple or list of tensors may also be several outputs of all samples."""
        if not isinstance(selected, (tuple, list)) or len(selected) == 0:
            return False
        return callable(self.output) or all(isinstance(entry, Mapping) for entry in selected)

    def pick(self, returned: Any) -> Any:
        """As :meth:`select`, of a graph's output too, unchecked."""
        if callable(self.output):
            return self.output(returned)
        if isinstance(self.output, str) and isinstance(returned, Tensor):
            raise KeyError(self.output)  # which indexing a tensor says in more words
        return returned if self.output is None else returned[self.output]


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with keys {', '.join(map(repr, output))}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)}"
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    return f"a {type(output).__name__}"
