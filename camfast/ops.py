"""The fused operators: checked, then dispatched to the kernel of the device, or to the reference where there is none.

The schema is declared once, in ``csrc/library.cpp``; here are its shape-only (fake) kernel for ``torch.compile`` and
``torch.export``, and the fallback for devices without a kernel. ``torch.ops.camfast.cam`` is the same operator for
TorchScript and C++.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camfast import reference
from camfast._extension import BUILD_INFO, LOAD_ERROR
from camfast._operands import accumulation_type, check_cam


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
    """Class activation maps from the activations of a layer, in one pass.

    With ``w_c`` the mean of ``gradients`` over the positions of channel ``c`` (Grad-CAM, Selvaraju et al. 2017,
    https://arxiv.org/abs/1610.02391), or the given ``weights``::

        L = sum_c w_c A_c        R = max(L, 0) if relu        U = bilinear(R, size)
        M = (U - min U) / (max U - min U), per sample; all zeros where max U = min U

    The interpolation has half-pixel centres and clamped edges (``align_corners=False``, no antialiasing). A sample
    with a NaN or an infinity, or with values of ``L`` beyond 2**126, gets a zero map and a NaN range; other samples
    do not notice. float16 and bfloat16 are summed in float32. Any strides will do, without a copy.

    Args:
        activations: [N, C, h, w]; float32, float16, bfloat16 or float64.
        gradients: [N, C, h, w], the derivative of the score with respect to ``activations``; same dtype and device.
        weights: [N, C], any floating dtype: the channel weights, where there are no gradients.
        rule: how weights come from gradients; ``"gradcam"``.
        size: (H, W) of the heatmaps; None keeps the layer's (h, w). Smaller than the layer is allowed.
        relu: keep only what speaks for the class.
        normalize: stretch every map to [0, 1].

    Returns:
        Heatmaps [N, H, W] and ranges [N, 2] (minimum and maximum of every map before normalization), on the device
        of ``activations``; float32, or float64 for float64 activations. Where an operand requires grad and grad mode
        is on, or in forward-mode differentiation, the reference computes the result, so that it can be differentiated.

    Raises:
        TypeError: an operand is not a dense floating tensor, or dtypes differ.
        ValueError: an unknown rule, shapes or devices that do not match, a size out of range.
    """
    height, width = check_cam(activations, gradients, weights, rule, size)
    if BUILD_INFO is None:
        _say_once(LOAD_ERROR or "unknown reason")
        use_reference = True
    else:
        operands = (activations, gradients, weights)
        differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)
        use_reference = differentiated or torch.autograd.forward_ad._current_level >= 0
    if use_reference:
        return reference.cam(
            activations, gradients, weights, rule=rule, size=(height, width), relu=relu, normalize=normalize
        )
    if weights is not None:
        weights = weights.to(accumulation_type(activations.dtype))
    heatmaps, ranges = torch.ops.camfast.cam(
        activations, gradients, weights, rule=rule, size=(height, width), relu=relu, normalize=normalize
    )
    return heatmaps, ranges


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(f"camfast runs through its PyTorch reference: {reason}", RuntimeWarning, stacklevel=4)


if BUILD_INFO is not None:

    @torch.library.register_fake("camfast::cam")  # type: ignore[untyped-decorator]
    def _cam_shapes(
        activations: Tensor,
        gradients: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        rule: str = "gradcam",
        size: Sequence[int] | None = None,
        relu: bool = True,
        normalize: bool = True,
    ) -> tuple[Tensor, Tensor]:
        height, width = check_cam(activations, gradients, weights, rule, size)
        dtype = accumulation_type(activations.dtype)
        samples = activations.shape[0]
        return (
            activations.new_empty((samples, height, width), dtype=dtype),
            activations.new_empty((samples, 2), dtype=dtype),
        )

    def _cam_fallback(activations: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        _say_once(f"no kernel was built for {activations.device.type}; see camfast.backends()")
        return reference.cam(activations, *args, **kwargs)  # type: ignore[arg-type]

    def _cam_backward(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(
            "torch.ops.camfast.cam cannot be differentiated; call camfast.ops.cam, which computes it differentiably"
        )

    torch.library.register_autograd("camfast::cam", _cam_backward)

    # Kept alive: the registration ends with the object.
    _FALLBACKS = torch.library.Library("camfast", "IMPL")  # type: ignore[no-untyped-call]
    _FALLBACKS.impl("cam", _cam_fallback, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
