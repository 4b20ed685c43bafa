"""The map of a frame, and its range as it is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Heat:
    """The map of one frame."""

    map: Tensor
    """[h, w] float32, of the size of the layer, not normalized."""
    ranges: Tensor
    """[2] float32: the values that are drawn as 0 and 1; NaN where the map is not finite."""

    @cached_property
    def finite(self) -> bool:
        """Whether there is anything to draw."""
        return all(map(math.isfinite, self.ranges.tolist()))  # of two values, sooner than by tensors


def drawn_ranges(maps: Tensor, height: int, width: int) -> Tensor:
    """The least and the greatest value [N, 2] of maps [N, h, w] as they are drawn on a rectangle of that size.

    Between the centres of a map's values the interpolation is bilinear, so the extremes lie at the drawn pixels next to
    those centres; only these are computed.
    """
    rows = _extreme_taps(maps.shape[1], height).to(maps)
    columns = _extreme_taps(maps.shape[2], width).to(maps)
    drawn = rows @ maps @ columns.T
    return torch.stack([drawn.amin((1, 2)), drawn.amax((1, 2))], dim=1)


@lru_cache(maxsize=64)
def _extreme_taps(source: int, length: int) -> Tensor:
    """Weights [positions, source] of the drawn pixels on either side of every value, half-pixel centres."""
    with torch.inference_mode(False):
        centres = (torch.arange(source, dtype=torch.float64) + 0.5) * length / source - 0.5
        near = torch.cat([centres.floor(), centres.ceil(), torch.tensor([0.0, length - 1.0])])
        near = near.clamp(0, length - 1)
        positions = ((near + 0.5) * source / length - 0.5).clamp(0, source - 1)
        distances = (positions[:, None] - torch.arange(source)).abs()
        weights: Tensor = (1 - distances).clamp_min(0).float()
        return weights


def mixed(one: Heat, other: Heat, share: float) -> Heat:
    """Two heats in one, ``share`` of it the other."""
    if not one.finite or not other.finite or one.map.shape != other.map.shape:
        return one
    return Heat(one.map.lerp(other.map, share), one.ranges.lerp(other.ranges, share))
