"""The operators in plain PyTorch: the meaning of every kernel, step by step, on any device.

Also what serves where no kernel was compiled, and what autograd differentiates. float64 operands are computed in
float64, which makes this the yardstick for every other backend.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camfast._operands import accumulation_type, check_cam, check_out, check_scale, ranges_shape
from camfast._overlay_operands import Region, check_rgb, check_yuv420

# Beyond this a map counts as not finite: below it no difference of two values overflows.
_LARGEST_USABLE = {torch.float32: 2.0**126, torch.float64: 2.0**1022}
_OPAQUE = 2**14
# Values of a map that lie further outside [0, 1] are drawn as these, which is as good, and cannot overflow.
_FAR_BEYOND = 2.0**20


def cam(
    activations: Tensor,
    gradients: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    rule: str = "gradcam",
    size: Sequence[int] | None = None,
    relu: bool = True,
    normalize: bool = True,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Class activation maps; the same signature, results and errors as :func:`camfast.ops.cam`."""
    shape = check_cam(activations, gradients, weights, rule, size)
    if out is not None:
        check_out(out, activations, gradients, weights, shape)
    dtype = accumulation_type(activations.dtype)
    layer = _layer_map(
        activations.to(dtype) if len(shape) == 3 else activations.to(dtype)[:, None],
        None if gradients is None else gradients.to(dtype),
        None if weights is None else weights.to(dtype),
        rule,
    )
    layer = layer.flatten(0, -3)  # [M, h, w]: the K maps of a sample are like samples of their own
    unusable = ~(layer.abs() <= _LARGEST_USABLE[dtype]).flatten(1).all(dim=1)  # [M]
    layer = layer.masked_fill(unusable[:, None, None], 0)
    if relu:
        layer = layer.clamp_min(0)

    heatmaps = interpolate(interpolate(layer, 1, shape[-2]), 2, shape[-1])
    low, high = heatmaps.amin(dim=(1, 2)), heatmaps.amax(dim=(1, 2))
    ranges = torch.stack([low, high], dim=1).masked_fill(unusable[:, None], torch.nan)
    if normalize:
        heatmaps = _scale(heatmaps, low, high).clamp(0, 1)
    heatmaps, ranges = heatmaps.reshape(shape), ranges.reshape(ranges_shape(shape))
    if out is not None:
        return out[0].copy_(heatmaps), out[1].copy_(ranges)
    return heatmaps, ranges


def overlay(
    frames: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    *,
    alpha: float,
    region: Sequence[int] | None = None,
    ranges: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """RGB frames with heatmaps laid over them; as :func:`camfast.ops.overlay`."""
    checked = check_rgb(frames, heatmaps, colors, alpha, region, ranges, normalize, in_place=False)
    return _overlay_rgb(frames.clone(), heatmaps, colors, alpha, checked, ranges, normalize)


def overlay_(
    frames: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    *,
    alpha: float,
    region: Sequence[int] | None = None,
    ranges: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """In place; as :func:`camfast.ops.overlay_`."""
    checked = check_rgb(frames, heatmaps, colors, alpha, region, ranges, normalize, in_place=True)
    return _overlay_rgb(frames, heatmaps, colors, alpha, checked, ranges, normalize)


def overlay_yuv420_(
    luma: Tensor,
    blue: Tensor,
    red: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    *,
    alpha: float,
    region: Sequence[int] | None = None,
    ranges: Tensor | None = None,
    normalize: bool = False,
) -> None:
    """In place on the planes of YUV 4:2:0; as :func:`camfast.ops.overlay_yuv420_`."""
    checked = check_yuv420(luma, blue, red, heatmaps, colors, alpha, region, ranges, normalize)
    if luma.numel() == 0:
        return
    top, left, rows, columns = checked
    levels = _levels(heatmaps, rows, columns, ranges, normalize)
    _blend_(luma[:, top : top + rows, left : left + columns], colors[:, 0][levels], alpha)

    # A chroma sample is coloured where every pixel that it covers is; at an odd edge of the frame it covers fewer.
    height, width = luma.shape[1:]
    above, below = (top + 1) // 2, (top + rows + (top + rows == height)) // 2
    before, after = (left + 1) // 2, (left + columns + (left + columns == width)) // 2
    if above >= below or before >= after:
        return
    pixels = levels[:, 2 * above - top :, 2 * before - left :]
    for dim, samples in ((1, below - above), (2, after - before)):
        both = torch.arange(2 * samples, device=pixels.device).clamp(max=pixels.shape[dim] - 1)
        pixels = pixels.index_select(dim, both)
    quads = pixels.reshape(len(pixels), below - above, 2, after - before, 2)
    mean_levels = (quads.sum(dim=(2, 4)) + 2) // 4
    for plane, channel in ((blue, 1), (red, 2)):
        _blend_(plane[:, above:below, before:after], colors[:, channel][mean_levels], alpha)


def quantize(values: Tensor, *, step: float, zero: int) -> Tensor:
    """Values as 8-bit integers of a scale; as :func:`camfast.ops.quantize`."""
    check_scale(values, step, zero)
    return values.detach().float().mul(1 / step).add_(zero).nan_to_num_(0).round_().clamp_(0, 255).to(torch.uint8)


def _layer_map(activations: Tensor, gradients: Tensor | None, weights: Tensor | None, rule: str) -> Tensor:
    """The maps [..., h, w] before ReLU; see ``csrc/cam_rules.h`` for the rules and their sources."""
    if weights is None:
        assert gradients is not None  # check_cam lets one of the two through
        if rule in _PLACE_BY_PLACE:
            return _products(activations, gradients, rule).sum(dim=-3)
        weights = channel_weights(activations, gradients, rule)
    return torch.einsum("...c,...chw->...hw", weights, activations)


def weighted_activations(
    activations: Tensor, gradients: Tensor | None, weights: Tensor | None, rule: str = "gradcam"
) -> Tensor:
    """The activations of every channel [..., C, h, w] as a rule weights them: what it adds up to a map.

    Args:
        activations: [..., C, h, w], float32 or float64.
        gradients: [..., C, h, w]; None where there are weights.
        weights: [..., C], the weights of the channels, in place of a rule.
        rule: as of :func:`camfast.ops.cam`.
    """
    if weights is None:
        assert gradients is not None
        if rule in _PLACE_BY_PLACE:
            return _products(activations, gradients, rule)
        weights = channel_weights(activations, gradients, rule)
    return weights[..., None, None] * activations


_PLACE_BY_PLACE = ("layercam", "hirescam", "elementwise")


def _products(activations: Tensor, gradients: Tensor, rule: str) -> Tensor:
    """Of the rules that give every place a weight of its own."""
    if rule == "layercam":
        return _positive_part(gradients) * activations
    if rule == "hirescam":
        return gradients * activations
    return _positive_part(gradients * activations)


def channel_weights(activations: Tensor, gradients: Tensor, rule: str) -> Tensor:
    """The weights [..., C] of the rules that give every channel one: gradcam, gradcam++ and xgradcam."""
    if rule == "gradcam":
        return gradients.mean(dim=(-2, -1))
    if rule == "xgradcam":
        return (activations * gradients).sum(dim=(-2, -1)) / (activations.sum(dim=(-2, -1)) + 1e-7)
    assert rule == "gradcam++"
    positive = _positive_part(gradients)
    squared = positive * positive
    total = activations.sum(dim=(-2, -1), keepdim=True)
    return (positive * squared / (squared * 2 + squared * positive * total + 1e-6)).sum(dim=(-2, -1))


def _positive_part(values: Tensor) -> Tensor:
    """max(values, 0) in which nothing disappears that is not finite: 0 * inf and 0 * NaN are NaN."""
    return torch.where(values < 0, values * 0, values)


def interpolate(maps: Tensor, dim: int, length: int) -> Tensor:
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


def _scale(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Maps [N, H, W] with [low, high] brought to [0, 1]; zeros where that range is empty, reversed or not finite."""
    low, high = low[:, None, None], high[:, None, None]
    span = high - low  # a denormal span may be flushed to zero
    largest = _LARGEST_USABLE[maps.dtype]
    valid = (span > 0) & (low.abs() <= largest) & (high.abs() <= largest)
    return ((maps - low) / span.where(valid, 1)).where(valid, 0)


def _levels(heatmaps: Tensor, height: int, width: int, ranges: Tensor | None, normalize: bool) -> Tensor:
    """Levels 0 to 255, int64 [N, height, width], of maps that are stretched to that size."""
    largest = _LARGEST_USABLE[torch.float32]
    maps = heatmaps.float().nan_to_num(0, largest, -largest).clamp(-largest, largest)
    rows = interpolate(maps, 1, height)
    if normalize:
        drawn = interpolate(rows, 2, width)
        rows = _scale(rows, drawn.amin(dim=(1, 2)), drawn.amax(dim=(1, 2)))
    elif ranges is not None:
        rows = _scale(rows, ranges[:, 0].float(), ranges[:, 1].float())
    # To levels before the columns are interpolated: it is linear, and there are fewer values.
    levels = rows.clamp(-_FAR_BEYOND, _FAR_BEYOND) * 255 + 0.5
    return interpolate(levels, 2, width).clamp(0, 255).to(torch.int64)


def _overlay_rgb(
    frames: Tensor,
    heatmaps: Tensor,
    colors: Tensor,
    alpha: float,
    region: Region,
    ranges: Tensor | None,
    normalize: bool,
) -> Tensor:
    if frames.numel() > 0:
        top, left, rows, columns = region
        levels = _levels(heatmaps, rows, columns, ranges, normalize)
        _blend_(frames[:, top : top + rows, left : left + columns], colors[levels], alpha)
    return frames


def _blend_(pixels: Tensor, colors: Tensor, alpha: float) -> None:
    """pixel + (colour - pixel) * alpha, with alpha in steps of 1 / 16384 and a half rounded up."""
    opacity = int(float(alpha) * _OPAQUE + 0.5)
    difference = colors.to(torch.int32) - pixels
    pixels.add_(((difference * opacity + _OPAQUE // 2) >> 14).to(torch.uint8))  # modulo 256, and so exact
