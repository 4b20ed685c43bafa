"""How large the values of a graph become, and what they are on average."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx


def watch(
    part: fx.GraphModule, batches: Iterable[tuple[Any, ...]], channels: Iterable[tuple[fx.Node, int]]
) -> dict[fx.Node, Seen]:
    """What is known of every map after some batches of inputs.

    Args:
        channels: maps of which there shall be means, with the dimension of their channels.
    """
    seen = {node: Seen() for node in part.graph.nodes}
    for node, dim in channels:
        seen[node].sums.setdefault(dim)
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
    sums: dict[int, Tensor | None] = field(default_factory=dict)
    """The means of each channel, by the dimension of channels, added up over samples."""
    samples: int = 0

    def mean(self, dim: int) -> Tensor:
        """Of each channel."""
        sums = self.sums[dim]
        assert sums is not None  # as it has been seen
        return sums / self.samples


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
            seen.samples += len(result) if result.dim() else 0
            for dim, before in seen.sums.items():
                sums = result.movedim(dim, -1).flatten(0, -2).mean(0) * len(result)
                seen.sums[dim] = sums if before is None else before + sums
        return result
