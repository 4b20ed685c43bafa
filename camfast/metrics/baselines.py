"""What a pixel is replaced by when it is taken out of an image."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Baseline: TypeAlias = "Literal['zero', 'mean', 'blur'] | float | Tensor"

_EXPECTED = "expected 'zero', 'mean', 'blur', a number, or a tensor that broadcasts to the images"

# As in the code of RISE: a kernel of 11 pixels with a standard deviation of 5.
_RADIUS, _SIGMA = 5, 5.0


def check_baseline(baseline: Any, images: Tensor) -> Tensor:
    """The images without what is in them, [N, C, H, W] (expanded where it is the same in all).

    Args:
        baseline: ``"zero"``: 0, which is the mean colour in images that are normalized. ``"mean"``: the mean of every
            image, a channel at a time. ``"blur"``: the image under a Gaussian. Or a number, or a tensor that
            broadcasts to the images.

    Raises:
        ValueError: an unknown name, a number that is not finite, a shape that does not fit.
        TypeError: something else.
    """
    if isinstance(baseline, str):
        if baseline == "zero":
            return images.new_zeros(()).expand_as(images)
        if baseline == "mean":
            places = tuple(range(2, images.dim()))
            return images.float().mean(places, keepdim=True).to(images.dtype).expand_as(images)
        if baseline == "blur":
            return blurred(images)
        raise ValueError(f"baseline={baseline!r}; {_EXPECTED}")
    if isinstance(baseline, Tensor):
        given = baseline.detach().to(images.device, images.dtype)
        if given.dim() in (0, images.dim() - 1, images.dim()):
            try:
                return given.expand_as(images)
            except RuntimeError:
                pass
        raise ValueError(
            f"baseline has shape {list(baseline.shape)}, which does not broadcast to images of {list(images.shape)}; "
            "expected [C, 1, 1], [C, H, W] or [N, C, H, W]"
        )
    if isinstance(baseline, bool) or not isinstance(baseline, (int, float)):
        raise TypeError(f"baseline={baseline!r} is a {type(baseline).__name__}; {_EXPECTED}")
    if not math.isfinite(baseline):
        raise ValueError(f"baseline={baseline!r} is not finite; {_EXPECTED}")
    return images.new_tensor(float(baseline)).expand_as(images)


def blurred(images: Tensor) -> Tensor:
    """Images under a Gaussian of RISE's width; beyond an edge the pixel at the edge goes on."""
    offsets = range(-_RADIUS, _RADIUS + 1)
    weights = [math.exp(-0.5 * (offset / _SIGMA) ** 2) for offset in offsets]
    total = sum(weights)
    result = images if images.dtype == torch.float64 else images.float()
    for dimension in range(2, images.dim()):
        length = images.shape[dimension]
        reach = torch.arange(-_RADIUS, length + _RADIUS, device=images.device).clamp(0, length - 1)
        padded = result.index_select(dimension, reach)
        result = torch.zeros_like(result)
        for start, weight in enumerate(weights):
            result.add_(padded.narrow(dimension, start, length), alpha=weight / total)
    return result.to(images.dtype)
