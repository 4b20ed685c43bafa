"""The definition of a class activation map in float64, written without a line of camfast: what results are held to."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def cam64(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    size: tuple[int, int] | None = None,
    relu: bool = True,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    activations = activations.double()
    weights = gradients.double().mean((2, 3)) if weights is None else weights.double()
    layer = (weights[:, :, None, None] * activations).sum(1)
    if relu:
        layer = layer.relu()
    maps = interpolate(layer[:, None], size or layer.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2)), maps.amax((1, 2))
    if normalize:
        span = (high - low)[:, None, None]
        # PyTorch's interpolation of a constant map varies in the last bits; that is still a constant map.
        flat = span <= 1e-14 * high.abs()[:, None, None]
        maps = torch.where(~flat, (maps - low[:, None, None]) / span, torch.zeros_like(maps))
    return maps, torch.stack([low, high], 1)
