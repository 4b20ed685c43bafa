"""What a metric returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scores:
    """How good the explanation of every sample is, by one metric. All tensors are on the device of the input."""

    name: str
    """Of the metric."""
    values: Tensor
    """[N]; NaN where a heatmap, or what the model made of the images, was not finite."""
    higher_is_better: bool
    curves: Tensor | None = None
    """[N, P]: what the values were made of, in metrics that have a curve."""
    at: Tensor | None = None
    """[P], from 0 to 1: to which share of the pixels each point of the curves belongs."""
    parts: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    """[N] each, by name: other metrics that went into the values."""

    @property
    def mean(self) -> float:
        """Over the samples that have a number; NaN where none has. A CUDA device is waited for."""
        finite = self.values[~self.values.isnan()]
        return float(finite.double().mean()) if len(finite) else math.nan

    @property
    def better(self) -> str:
        """``"higher"`` or ``"lower"``."""
        return "higher" if self.higher_is_better else "lower"

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, as JSON has them: what is not a number is None."""
        return {"mean": _plain(self.mean), "values": [_plain(v) for v in self.values.tolist()], "better": self.better}

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        samples = "1 image" if len(self) == 1 else f"{len(self)} images"
        text = f"{self.name} {self.mean:.4f} ({self.better} is better; {samples}"
        missing = int(self.values.isnan().sum())
        if missing:
            text += f", {missing} of them without a number"
        elif len(self) > 1:
            text += f", from {float(self.values.min()):.4f} to {float(self.values.max()):.4f}"
        return f"{text})"


def only_where(finite: Tensor, values: Tensor) -> Tensor:
    """Values [N] or [N, P], NaN in the samples where ``finite`` [N] is False."""
    shape = (-1, *[1] * (values.dim() - 1))
    return torch.where(finite.reshape(shape), values, values.new_tensor(math.nan))


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
