"""Maps with three dimensions, of volumes and clips: what the fused operator does for pictures, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camfast._operands import accumulation_type
from camfast.reference import interpolate

_LARGEST_USABLE = 2.0**126  # as of the operator: no difference of two values overflows


def drawn(maps: Tensor, size: Sequence[int] | None, relu: bool, normalize: bool) -> tuple[Tensor, Tensor]:
    """Interpolated to ``size`` (trilinear, half-pixel centres, edges clamped) and stretched to [0, 1].

    Args:
        maps: [M, d, h, w], any floating dtype.
        size: (D, H, W); None keeps that of the maps.
        relu: cut off what is negative, before the interpolation.
        normalize: stretch every map to [0, 1]; a constant map becomes zeros.

    Returns:
        [M, D, H, W], and minimum and maximum of each before normalization, [M, 2]. A map that is not finite becomes
        zeros with a range of NaN.

    Raises:
        ValueError: ``size`` is not three positive whole numbers.
    """
    if size is not None and (len(size) != 3 or any(not isinstance(n, int) or n < 1 for n in size)):
        raise ValueError(f"size={tuple(size)!r}; expected (depth, height, width), each at least 1, for volumes")
    maps = maps.to(accumulation_type(maps.dtype))
    unusable = ~(maps.abs() <= _LARGEST_USABLE).flatten(1).all(dim=1)
    maps = maps.masked_fill(unusable[:, None, None, None], 0)
    if relu:
        maps = maps.clamp_min(0)
    for axis, length in enumerate(size or maps.shape[1:]):
        maps = interpolate(maps, axis + 1, length)
    low, high = maps.amin(dim=(1, 2, 3)), maps.amax(dim=(1, 2, 3))
    if normalize:
        span = (high - low)[:, None, None, None]
        stretched = (maps - low[:, None, None, None]) / span.where(span > 0, 1)
        maps = stretched.where(span > 0, 0).clamp(0, 1)
    return maps, torch.stack([low, high], dim=1).masked_fill(unusable[:, None], torch.nan)
