"""The shape of everything in a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def shapes_of(part: fx.GraphModule, inputs: tuple[Any, ...]) -> dict[Any, torch.Size | None]:
    """The shape of what every node gives for some inputs; None for what is no tensor."""
    interpreter = _Shapes(part)
    with torch.no_grad():
        interpreter.run(*inputs)
    return interpreter.found


class _Shapes(fx.Interpreter):
    def __init__(self, part: fx.GraphModule) -> None:
        super().__init__(part)
        self.found: dict[Any, torch.Size | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.found[n] = result.shape if isinstance(result, Tensor) else None
        return result
