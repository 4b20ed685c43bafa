"""The tensor to explain, of whatever a model returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Selector = str | int | Callable[[Any], Tensor]


@dataclass(frozen=True)
class Chosen:
    """What an engine's argument ``output`` chooses."""

    output: Selector | None
    engine: str
    """The name of its class, for the remedy in an error."""

    def select(self, returned: Any) -> Tensor:
        """The chosen tensor.

        Raises:
            TypeError: what is chosen is no tensor.
            ValueError: the model returns nothing of that key or index.
        """
        try:
            selected = self.pick(returned)
        except (KeyError, IndexError, TypeError):
            if callable(self.output):
                raise
            raise ValueError(f"output={self.output!r} is not in the model's output, {_describe(returned)}") from None
        if not isinstance(selected, Tensor):
            example = repr(next(iter(selected))) if isinstance(selected, Mapping) and selected else "0"
            raise TypeError(
                f"the model's output is {_describe(selected)}; expected a tensor. "
                f"Select one: {self.engine}(model, output={example}), or output=a callable"
            )
        return selected

    def pick(self, returned: Any) -> Any:
        """As :meth:`select`, of a graph's output too, unchecked."""
        if callable(self.output):
            return self.output(returned)
        return returned if self.output is None else returned[self.output]


def _describe(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with keys {', '.join(map(repr, output))}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)}"
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    return f"a {type(output).__name__}"
