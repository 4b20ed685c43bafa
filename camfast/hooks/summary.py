"""The numbers of a capture, as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from camfast.hooks.tables import html_table, text_table

_HEADER = ("layer", "type", "shape", "mean", "std", "zeros", "gradient norm")
_LEFT = 3


@dataclass(frozen=True)
class LayerSummary:
    """One run of one layer."""

    layer: str
    """Its entry in the capture."""
    type: str
    """The class of the module."""
    shape: tuple[int, ...]
    mean: float
    std: float
    """Of the values themselves, not an estimate for others: of one value it is 0."""
    zeros: float
    """The share of values that are exactly zero, from 0 to 1."""
    gradient_norm: float | None
    """The root of the summed squares; None where no gradient was captured."""

    @classmethod
    def of(cls, layer: str, type: str, activation: Tensor, gradient: Tensor | None) -> LayerSummary:
        """The numbers, computed in float32 at least; NaN for an activation without values."""
        if activation.numel() == 0:
            mean = std = zeros = math.nan
        else:
            values = _precise(activation)
            std_mean = torch.std_mean(values, correction=0)
            found = torch.stack([*std_mean, (values == 0).to(values.dtype).mean()])
            std, mean, zeros = found.tolist()
        norm = None if gradient is None else float(torch.linalg.vector_norm(_precise(gradient)))
        return cls(layer, type, tuple(activation.shape), mean, std, zeros, norm)


@dataclass(frozen=True)
class Summary:
    """What a capture has, in numbers; print it, or show it in a notebook."""

    rows: tuple[LayerSummary, ...]
    """One for every entry of the activations, in call order."""

    def __str__(self) -> str:
        return text_table(_HEADER, self._cells(), _LEFT)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(_HEADER, self._cells(), _LEFT)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.layer or "(the model)",
                row.type,
                str(list(row.shape)),
                f"{row.mean:.4g}",
                f"{row.std:.4g}",
                f"{row.zeros:.1%}",
                "–" if row.gradient_norm is None else f"{row.gradient_norm:.4g}",
            )
            for row in self.rows
        ]


def _precise(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
