"""The fused operators: checked, then dispatched to the kernel of the device, or to the reference where there is none.

The schemas are declared once, in ``csrc/library.cpp``; :mod:`camfast._registration` adds what torch asks of an
operator. ``torch.ops.camfast`` has the same operators for TorchScript and C++.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from camfast import reference
from camfast._memory import mark_written
from camfast._operands import accumulation_type, check_cam, check_out, check_scale, ranges_shape
from camfast._overlay_operands import check_rgb, check_yuv420
from camfast._registration import reference_serves


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
    """Class activation maps from the activations ``A`` of a layer and their gradients ``G``, in one pass.

    The rule makes a map of the layer::

        gradcam      L = sum_c w_c A_c,  w_c = mean G_c                                     Selvaraju et al. 2017
        gradcam++    L = sum_c w_c A_c,  w_c = sum P^3 / (2 P^2 + P^3 sum A_c + 1e-6),      Chattopadhyay et al. 2018
                                         P = max(G_c, 0)
        xgradcam     L = sum_c w_c A_c,  w_c = sum(G_c A_c) / (sum A_c + 1e-7)              Fu et al. 2020
        layercam     L = sum_c max(G_c, 0) A_c                                              Jiang et al. 2021
        hirescam     L = sum_c G_c A_c                                                      Draelos and Carin 2020
        elementwise  L = sum_c max(G_c A_c, 0)

    (sums and means without an index run over positions), or ``L = sum_c w_c A_c`` with given ``weights``. Then::

        R = max(L, 0) if relu        U = bilinear(R, size)
        M = (U - min U) / (max U - min U), per map; all zeros where max U = min U

    Every sample gets one map, or K of them (of K classes, say), each as from a call of its own; on the CPU bitwise.

    The interpolation has half-pixel centres and clamped edges (``align_corners=False``, no antialiasing). A map
    with a NaN or an infinity in its operands, or with values of ``L`` beyond 2**126, becomes zeros and its range NaN;
    other maps do not notice. float16 and bfloat16 are summed in float32. Any strides will do; contiguous and
    channels-last tensors are fastest.

    Args:
        activations: [N, C, h, w]; float32, float16, bfloat16 or float64.
        gradients: [N, C, h, w], the derivative of the score with respect to ``activations``; same dtype and device.
            [N, K, C, h, w] for K maps of every sample: ``activations`` are then read in place for each.
        weights: [N, C] or [N, K, C], any floating dtype: the channel weights, where there are no gradients.
        rule: how a map comes from activations and gradients, as above.
        size: (H, W) of the heatmaps; None keeps the layer's (h, w). Smaller than the layer is allowed.
        relu: keep only what speaks for the class.
        normalize: stretch every map to [0, 1].
        out: (heatmaps, ranges) to write into: of the shapes and dtype described below, contiguous, on the device of
            ``activations``, sharing no memory with each other or an operand.

    Returns:
        Heatmaps [N, H, W] and ranges [N, 2] (minimum and maximum of every map before normalization), or [N, K, H, W]
        and [N, K, 2], on the device of ``activations``; float32, or float64 for float64 activations. Where an operand
        requires grad and grad mode is on, or in forward-mode differentiation, the reference computes the result, so
        that it can be differentiated.

    Raises:
        TypeError: an operand is not a dense floating tensor, or dtypes differ.
        ValueError: an unknown rule, shapes or devices that do not match, a size out of range, ``out`` overlapping an
            operand or given where the result is to be differentiated.
    """
    shape = check_cam(activations, gradients, weights, rule, size)
    operands = (activations, gradients, weights)
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)
    differentiated = differentiated or torch.autograd.forward_ad._current_level >= 0
    if out is not None:
        check_out(out, *operands, shape)
        if differentiated:
            raise ValueError("out is given, but the result is to be differentiated; leave out away, or use no_grad")
    size = shape[-2:]
    if differentiated or reference_serves():
        return reference.cam(*operands, rule=rule, size=size, relu=relu, normalize=normalize, out=out)
    if weights is not None:
        weights = weights.to(accumulation_type(activations.dtype))
    if len(shape) == 3:
        return _cam(activations, gradients, weights, rule, size, relu, normalize, out)
    if gradients is not None and not _flattens_in_place(gradients):
        # Map by map: to flatten them would copy them, and an expanded tensor to its full size.
        maps = [_cam(activations, g, None, rule, size, relu, normalize, None) for g in gradients.unbind(1)]
        all_heatmaps, all_ranges = zip(*maps, strict=True)
        if out is None:
            return torch.stack(all_heatmaps, 1), torch.stack(all_ranges, 1)
        return torch.stack(all_heatmaps, 1, out=out[0]), torch.stack(all_ranges, 1, out=out[1])
    gradients, weights = (None if t is None else t.flatten(0, 1) for t in (gradients, weights))
    if out is None:
        heatmaps, ranges = _cam(activations, gradients, weights, rule, size, relu, normalize, None)
        return heatmaps.view(shape), ranges.view(ranges_shape(shape))
    _cam(activations, gradients, weights, rule, size, relu, normalize, (out[0].flatten(0, 1), out[1].flatten(0, 1)))
    return out[0], out[1]


def _cam(
    activations: Tensor,
    gradients: Tensor | None,
    weights: Tensor | None,
    rule: str,
    size: Sequence[int],
    relu: bool,
    normalize: bool,
    out: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """The operator as it is, for checked operands: [K * N, ...] where :func:`cam` has [N, K, ...]."""
    if out is None:
        heatmaps, ranges = torch.ops.camfast.cam(
            activations, gradients, weights, rule=rule, size=size, relu=relu, normalize=normalize
        )
        return heatmaps, ranges
    torch.ops.camfast.cam.out(
        activations, gradients, weights, rule=rule, relu=relu, normalize=normalize, heatmaps=out[0], ranges=out[1]
    )
    mark_written(*out)
    return out[0], out[1]


def _flattens_in_place(tensor: Tensor) -> bool:
    """Whether the first two axes are evenly spaced as one, so that they flatten without a copy."""
    first, second = tensor.shape[:2]
    return first <= 1 or second <= 1 or tensor.stride(0) == second * tensor.stride(1)


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
    """RGB frames with heatmaps laid over them: from a map of any size to pixels in one pass over the frame.

    The map is interpolated to the region as in :func:`cam`, brought to [0, 1], and rounded to one of 256 levels, each
    of which has a colour; NaN is level 0. A pixel becomes ``pixel + (colour - pixel) * alpha``, with alpha in steps of
    1 / 16384 and a half rounded up: in whole numbers, and so bitwise the same on every device for the same level.

    Args:
        frames: uint8 [N, H, W, 3], any strides: planar frames [N, 3, H, W] are ``frames.permute(0, 2, 3, 1)``.
        heatmaps: [N, h, w], any floating dtype (computed in float32).
        colors: uint8 [256, 3]: the colour of every level.
        alpha: opacity of the colour, 0 (the frame, bitwise) to 1 (the colour).
        region: (top, left, height, width) of the part of the frames that the maps cover; None is all of it. Pixels
            outside are bitwise those of the frame.
        ranges: [N, 2]: the values that become 0 and 1, as :func:`cam` returns them; what lies beyond is cut off. Where
            a range is empty or NaN, the map is level 0. None: maps are in [0, 1] already.
        normalize: take the range of every map as it is drawn.

    Returns:
        New frames of the same shape and device, laid out as by ``torch.empty_like``.

    Raises:
        TypeError: frames or colours are not uint8 tensors, or heatmaps or ranges are not floating tensors.
        ValueError: shapes or devices that do not match, an alpha or a region out of range.
    """
    checked = check_rgb(frames, heatmaps, colors, alpha, region, ranges, normalize, in_place=False)
    options: dict[str, Any] = dict(alpha=_number(alpha), region=checked, ranges=_float32(ranges), normalize=normalize)
    if reference_serves():
        return reference.overlay(frames, heatmaps, colors, **options)
    result: Tensor = torch.ops.camfast.overlay(frames, _float32(heatmaps), colors.contiguous(), **options)
    return result


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
    """:func:`overlay` in place: only the region is read and written. Returns ``frames``.

    Raises:
        TypeError, ValueError: as :func:`overlay`; and where elements of ``frames`` share memory with each other or with
            an operand.
    """
    checked = check_rgb(frames, heatmaps, colors, alpha, region, ranges, normalize, in_place=True)
    options: dict[str, Any] = dict(alpha=_number(alpha), region=checked, ranges=_float32(ranges), normalize=normalize)
    if reference_serves():
        return reference.overlay_(frames, heatmaps, colors, **options)
    torch.ops.camfast.overlay_(frames, _float32(heatmaps), colors.contiguous(), **options)
    mark_written(frames)
    return frames


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
    """:func:`overlay_` on frames as video decoders give them: the planes of YUV 4:2:0, without a detour through RGB.

    A chroma sample takes the mean level of the pixels that it covers (2 × 2, fewer at an odd edge of the frame), where
    all of them lie in the region; at an odd edge of the region it stays as it is, so that no pixel outside changes.

    Args:
        luma: uint8 [N, H, W], any strides.
        blue, red: uint8 [N, ceil(H / 2), ceil(W / 2)], any strides: planes of their own, or the halves of NV12.
        heatmaps: as for :func:`overlay`.
        colors: uint8 [256, 3]: luma, blue and red chroma of every level, in the matrix and range of the frames; see
            :func:`camfast.colors.yuv_colors`.
        alpha, region, ranges, normalize: as for :func:`overlay`.

    Raises:
        TypeError, ValueError: as :func:`overlay_`, by the names of the planes.
    """
    checked = check_yuv420(luma, blue, red, heatmaps, colors, alpha, region, ranges, normalize)
    options: dict[str, Any] = dict(alpha=_number(alpha), region=checked, ranges=_float32(ranges), normalize=normalize)
    if reference_serves():
        reference.overlay_yuv420_(luma, blue, red, heatmaps, colors, **options)
    else:
        torch.ops.camfast.overlay_yuv420_(luma, blue, red, _float32(heatmaps), colors.contiguous(), **options)
        mark_written(luma, blue, red)


def quantize(values: Tensor, *, step: float, zero: int) -> Tensor:
    """Values as 8-bit integers of a scale, in one pass: ``round(values / step) + zero``, cut off at 0 and 255.

    Computed in float32, as ``values * (1 / step) + zero`` rounded to the nearest, and of two the even one; NaN becomes
    0. (Affine quantization: Jacob et al., CVPR 2018.)

    Args:
        values: float32, float16 or bfloat16, any shape.
        step: between the values of two integers; finite, above 0.
        zero: the integer of zero, 0 to 255.

    Returns:
        uint8, of the shape and, where elements fill their memory, the strides of the values.

    Raises:
        TypeError, ValueError: names the operand that is wrong.

    >>> camfast.ops.quantize(torch.tensor([-1.0, 0.0, 0.25, 30.0]), step=0.1, zero=10)
    tensor([  0,  10,  12, 255], dtype=torch.uint8)
    """
    check_scale(values, step, zero)
    if reference_serves():
        return reference.quantize(values, step=step, zero=zero)
    integers: Tensor = torch.ops.camfast.quantize(values.detach(), step=step, zero=zero)
    return integers


def _number(alpha: float) -> float:
    return alpha if isinstance(alpha, torch.SymFloat) else float(alpha)


@overload
def _float32(values: Tensor) -> Tensor: ...
@overload
def _float32(values: None) -> None: ...
def _float32(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().float()
