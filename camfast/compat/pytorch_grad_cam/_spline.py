"""Volumes at another size by cubic splines, first and last places in line: as ``scipy.ndimage.zoom`` does it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def zoomed(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [..., *places] with as many places along each of their last dimensions as ``size`` has."""
    for axis, length in enumerate(size, maps.dim() - len(size)):
        weights = _weights(maps.shape[axis], length).to(maps)
        maps = torch.tensordot(maps, weights, dims=([axis], [1])).movedim(-1, axis)
    return maps


@functools.lru_cache(maxsize=64)
def _weights(source: int, target: int) -> Tensor:
    """[target, source] float64: how much of each place there is in each new one.

    The spline through the places has the coefficients ``c`` with ``(c[i-1] + 4 c[i] + c[i+1]) / 6`` their values,
    mirrored at both ends.
    """
    with torch.inference_mode(False):
        if source == 1:
            return torch.ones(target, 1, dtype=torch.float64)
        values = torch.stack(
            [_basis(torch.arange(source, dtype=torch.float64), place, source) for place in range(source)]
        )
        at = torch.linspace(0, source - 1, target, dtype=torch.float64)
        new = torch.stack([_basis(at, place, source) for place in range(source)])
        weights: Tensor = torch.linalg.solve(values, new).mT.contiguous()
        return weights


def _basis(at: Tensor, place: int, source: int) -> Tensor:
    """What the coefficient of a place, and of its images beyond the ends, counts at positions."""
    period = 2 * (source - 1)
    images = {image + turn for image in (place, -place) for turn in (-period, 0, period)}
    return torch.stack([_cubic((at - image).abs()) for image in sorted(images)]).sum(0)


def _cubic(distance: Tensor) -> Tensor:
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far)
