"""How large the values of a graph become, and what they are on average."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx


def watch(part: fx.GraphModule, batches: Iterable[tuple[Any, ...]]) -> dict[fx.Node, Seen]:
    """What is known of every map after some batches of inputs."""
    seen = {node: Seen() for node in part.graph.nodes}
    interpreter = _Watch(part, seen)
    with torch.no_grad():
        for inputs in batches:
            interpreter.run(*inputs)
    return seen


@dataclass
class Seen:
    """What is known of a map."""

    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    total: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Of each channel of a map [N, C, H, W]."""
        assert self.total is not None  # as it has been seen
        return self.total / self.count


class _Watch(fx.Interpreter):
    """Runs a graph, and looks at its maps."""

    def __init__(self, part: fx.GraphModule, seen: dict[fx.Node, Seen]) -> None:
        super().__init__(part)
        self._seen = seen

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
            seen = self._seen[n]
            low, high = result.aminmax()
            seen.low, seen.high = min(seen.low, float(low)), max(seen.high, float(high))
            if result.dim() == 4:
                sums = result.mean((2, 3)).sum(0)
                seen.total = sums if seen.total is None else seen.total + sums
                seen.count += len(result)
        return result
