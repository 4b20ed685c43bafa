"""Heatmaps from anywhere, as the metrics take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camfast.metrics.result import only_where

Heatmaps = Tensor | npt.NDArray[Any]

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_SLACK = 1e-3
"""How far rounding (of half precision, of an interpolation) may take a value out of 0 to 1."""


@dataclass(frozen=True)
class Maps:
    """Heatmaps at the size of the images."""

    values: Tensor
    """[N, H, W] float32 or float64; 0 in samples that are not finite."""
    finite: Tensor
    """[N] bool."""

    @property
    def flat(self) -> Tensor:
        """[N, pixels]."""
        return self.values.flatten(1)

    def where_finite(self) -> Tensor:
        """The heatmaps, with NaN throughout in samples that are not finite."""
        return only_where(self.finite, self.values)

    def check_range(self, metric: str) -> None:
        """Raises ValueError where a value is not in 0 to 1, as it must be to serve as a mask."""
        low, high = (float(edge) for edge in self.values.aminmax())
        if low < -_SLACK or high > 1 + _SLACK:
            raise ValueError(
                f"heatmaps has values from {low:.4g} to {high:.4g}; {metric} takes them as a mask and expects 0 to 1, "
                "as explainers give them with normalize=True"
            )


def check_heatmaps(heatmaps: Any, samples: int, size: Sequence[int], device: torch.device) -> Maps:
    """Heatmaps [N, H, W] (volumes: [N, D, H, W]) of any size, interpolated to that of the images.

    Raises:
        TypeError: neither a tensor nor an array of numbers.
        ValueError: another shape.
    """
    values = as_tensor(heatmaps)
    expected = ", ".join("DHW"[-len(size) :])
    if values.dim() != len(size) + 1:
        hint = ": add the batch dimension with heatmaps[None]" if values.dim() == len(size) else ""
        if values.dim() == len(size) + 2:
            hint = ": give those of one class a sample, as heatmaps[:, 0]"
        raise ValueError(f"heatmaps has shape {list(values.shape)}; expected [N, {expected}]{hint}")
    if len(values) != samples or 0 in values.shape:
        raise ValueError(f"heatmaps has shape {list(values.shape)} for {samples} images; expected [N, {expected}]")
    maps = finite_maps(values.to(device))
    return Maps(resized(maps.values, size), maps.finite)


def as_tensor(heatmaps: Any) -> Tensor:
    """Heatmaps as a float32 or float64 tensor, of whatever shape.

    Raises:
        TypeError: neither a tensor nor an array of numbers.
    """
    if isinstance(heatmaps, np.ndarray):
        if heatmaps.dtype.kind not in "fiub":
            raise TypeError(f"heatmaps has dtype {heatmaps.dtype}; expected real numbers")
        heatmaps = torch.from_numpy(np.ascontiguousarray(heatmaps))
    if not isinstance(heatmaps, Tensor):
        raise TypeError(f"heatmaps is a {type(heatmaps).__name__}; expected a tensor or an array [N, H, W]")
    if heatmaps.is_complex():
        raise TypeError(f"heatmaps has dtype {heatmaps.dtype}; expected real numbers")
    return heatmaps.detach().to(torch.float64 if heatmaps.dtype == torch.float64 else torch.float32)


def finite_maps(values: Tensor) -> Maps:
    """Heatmaps at their own size."""
    finite = values.flatten(1).isfinite().all(1)
    return Maps(torch.where(finite.reshape(-1, *[1] * (values.dim() - 1)), values, torch.zeros_like(values)), finite)


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """Heatmaps at another size; themselves where it is theirs."""
    if tuple(values.shape[1:]) == tuple(size):
        return values
    return interpolate(values[:, None], tuple(size), mode=_MODES[len(size)], align_corners=False)[:, 0]
