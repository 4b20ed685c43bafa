"""The operators in plain PyTorch: the meaning of every kernel, step by step, on any device.

Also what serves where no kernel was compiled, and what autograd differentiates. float64 operands are computed in
float64, which makes this the yardstick for every other backend.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camfast._operands import accumulation_type, check_cam

# Beyond this a map counts as not finite: below it no difference of two values overflows.
_LARGEST_USABLE = {torch.float32: 2.0**126, torch.float64: 2.0**1022}


def cam(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    rule: str = "gradcam",
    size: Sequence[int] | None = None,
    relu: bool = True,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Class activation maps; the same signature, results and errors as :func:`camfast.ops.cam`."""
    height, width = check_cam(activations, gradients, weights, rule, size)
    dtype = accumulation_type(activations.dtype)
    activations = activations.to(dtype)
    if gradients is not None:
        weights = gradients.to(dtype).mean(dim=(2, 3))
    assert weights is not None  # check_cam lets one of the two through

    layer = torch.einsum("nc,nchw->nhw", weights.to(dtype), activations)
    unusable = ~(layer.abs() <= _LARGEST_USABLE[dtype]).flatten(1).all(dim=1)  # [N]
    layer = layer.masked_fill(unusable[:, None, None], 0)
    if relu:
        layer = layer.clamp_min(0)

    heatmaps = _interpolate(_interpolate(layer, 1, height), 2, width)
    low, high = heatmaps.amin(dim=(1, 2)), heatmaps.amax(dim=(1, 2))
    ranges = torch.stack([low, high], dim=1).masked_fill(unusable[:, None], torch.nan)
    if normalize:
        low, span = low[:, None, None], (high - low)[:, None, None]
        varied = span > 0  # a denormal span may be flushed to zero
        heatmaps = ((heatmaps - low) / span.where(varied, 1)).where(varied, 0)
    return heatmaps, ranges


def _interpolate(maps: Tensor, dim: int, length: int) -> Tensor:
    """Linear interpolation along ``dim``: half-pixel centres, edges clamped, the same taps as ``csrc/cam_math.h``."""
    source = maps.shape[dim]
    position = torch.arange(length, device=maps.device)
    # The centre of an output pixel in input pixels is this numerator over 2 * length: whole numbers do not round.
    numerator = (2 * position + 1) * source - length
    lower = (numerator // (2 * length)).clamp(0, source - 1)
    upper = (lower + 1).clamp(max=source - 1)
    fraction = (numerator - lower * 2 * length).clamp_min(0).to(maps.dtype) / (2 * length)
    fraction = fraction.reshape([-1 if d == dim else 1 for d in range(maps.dim())])
    below, above = maps.index_select(dim, lower), maps.index_select(dim, upper)
    return below + fraction * (above - below)
