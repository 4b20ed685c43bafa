"""The input that a model saw, kept so that it can be explained after the user's forward pass is over."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from camfast.inputs import Batch, Inputs, check_inputs


@dataclass(frozen=True)
class SeenInput:
    """Arguments of one call of a model, of which later changes in place are not seen."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> SeenInput:
        """A copy of the tensors, without their graphs."""
        return SeenInput(tuple(map(_copied, args)), {name: _copied(value) for name, value in kwargs.items()})

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) of the images, or what else follows samples and channels; empty where no argument has positions."""
        values = (*self.args, *self.kwargs.values())
        return next((tuple(v.shape[2:]) for v in values if isinstance(v, Tensor) and v.dim() > 2), ())

    def batch(self) -> Batch:
        """As camfast's passes take it.

        Raises:
            ValueError: no argument is a batch of images.
        """
        values = (*self.args, *self.kwargs.values())
        return Batch(values, tuple(self.kwargs), check_inputs(values).image)

    def given(self, model: nn.Module) -> Inputs:
        """As camfast's engines take it: all by position, or all by name."""
        if not self.kwargs:
            return self.args[0] if len(self.args) == 1 else self.args
        names = list(inspect.signature(model.forward).parameters)[: len(self.args)]
        return {**dict(zip(names, self.args, strict=True)), **self.kwargs}


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
