"""What results are held to: the definitions in float64, written without a line of camfast."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def layer64(a: Tensor, g: Tensor, rule: str) -> Tensor:
    """The map of a layer [N, h, w] from activations and gradients, before ReLU."""
    a, g = a.double(), g.double()
    places = dict(dim=(2, 3), keepdim=True)
    if rule == "gradcam":
        return (g.mean(**places) * a).sum(1)
    if rule == "gradcam++":
        alpha = g**2 / (2 * g**2 + a.sum(**places) * g**3 + 1e-6)
        return ((alpha * g.relu()).sum(**places) * a).sum(1)
    if rule == "xgradcam":
        return ((g * a / (a.sum(**places) + 1e-7)).sum(**places) * a).sum(1)
    if rule == "layercam":
        return (g.relu() * a).sum(1)
    if rule == "hirescam":
        return (g * a).sum(1)
    assert rule == "elementwise"
    return (g * a).relu().sum(1)


def cam64(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    size: tuple[int, int] | None = None,
    relu: bool = True,
    normalize: bool = True,
    rule: str = "gradcam",
) -> tuple[Tensor, Tensor]:
    if weights is None:
        layer = layer64(activations, gradients, rule)
    else:
        layer = (weights.double()[:, :, None, None] * activations.double()).sum(1)
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


def levels64(
    heatmaps: Tensor, size: tuple[int, int], ranges: Tensor | None = None, normalize: bool = False
) -> tuple[Tensor, Tensor]:
    """The least and the greatest level 0 to 255 of every pixel that rounding in float32 may give."""
    maps = interpolate(heatmaps.double()[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    if normalize:
        ranges = torch.stack([maps.amin((1, 2)), maps.amax((1, 2))], 1)
    if ranges is not None:
        low, high = ranges.double()[:, :1, None], ranges.double()[:, 1:, None]
        flat = high - low <= 1e-14 * high.abs()  # as in cam64
        maps = torch.where(~flat, (maps - low) / (high - low), torch.zeros_like(maps))
    slack = 2e-6
    return tuple(((maps + sign * slack).clamp(0, 1) * 255 + 0.5).floor().long() for sign in (-1, 1))


def blended(pixels: Tensor, colors: Tensor, alpha: float) -> Tensor:
    """pixel + (colour - pixel) * alpha in whole numbers, alpha in steps of 1 / 16384, halves up."""
    opacity = int(alpha * 16384 + 0.5)
    pixels, colors = pixels.long(), colors.long()
    return ((pixels * (16384 - opacity) + colors * opacity + 8192) // 16384).to(torch.uint8)
