"""Maps as integers, and what is computed of them: of x86, on processors that multiply four at a time (VNNI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camfast.activations import Activation
from camfast.ops import quantize

ACTIVATIONS = ("none", "relu", "hardtanh", "hardswish", "swish")
"""That oneDNN computes on integers, after a convolution."""
LINEAR_ACTIVATIONS = (*ACTIVATIONS, "gelu", "leaky_relu", "tanh")
_OPERATIONS = (
    ("onednn", "qconv_prepack"),
    ("onednn", "qconv2d_pointwise"),
    ("onednn", "qlinear_prepack"),
    ("onednn", "qlinear_pointwise"),
    ("quantized", "max_pool2d"),
)


def available() -> bool:
    """Whether this processor is made for it, and PyTorch has the operations."""
    asks = getattr(torch.cpu, "_is_vnni_supported", None)  # private, and may go
    has_all = all(hasattr(getattr(torch.ops, space), name) for space, name in _OPERATIONS)
    return asks is not None and bool(asks()) and has_all


@dataclass(frozen=True)
class Scale:
    """A value is an integer of 0 to 255, less ``zero``, times ``step``."""

    step: float
    zero: int

    @staticmethod
    def reaching(low: float, high: float) -> Scale:
        """The finest scale from one value to another that has zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / 255 or 1.0
        return Scale(step, round(-low / step))


class Quantize(nn.Module):
    """Values as integers of a scale."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return quantize(x, step=self.scale.step, zero=self.scale.zero)


class Dequantize(nn.Module):
    """Integers of a scale as values of a type."""

    def __init__(self, scale: Scale, values: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scale = scale
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.values).sub_(self.scale.zero).mul_(self.scale.step)


class IntegerMaxPool(nn.Module):
    """The maximum, which has the scale of the map."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.geometry = [_pair(n) for n in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)]
        self.ceil_mode = pool.ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.quantized.max_pool2d(x, *self.geometry, self.ceil_mode)
        return result


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


class IntegerConvolution(nn.Module):
    """A convolution of integers, the sum with another map, and an activation; integers, or values where no scale is."""

    def __init__(
        self,
        convolution: nn.Conv2d,
        input_shape: torch.Size,
        mean: Tensor,
        source: Scale,
        result: Scale | None,
        activation: Activation,
        added: Scale | None,
        values: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        steps, rounded = _integers_of(convolution.weight.detach())
        geometry = (
            list(convolution.stride),
            [int(side) for side in convolution.padding],
            list(convolution.dilation),
            convolution.groups,
        )
        # Opaque to PyTorch: neither parameters nor buffers, so that nothing casts or moves them.
        packed = torch.ops.onednn.qconv_prepack(rounded, steps, source.step, source.zero, *geometry, list(input_shape))
        error = (rounded * steps[:, None, None, None] - convolution.weight.detach()).sum((2, 3))
        bias = _bias_without(error, convolution.bias, mean, convolution.groups)
        self.inputs = (source.step, source.zero)
        self.weights = (packed, steps, torch.zeros_like(steps, dtype=torch.int32))
        self.bytes = rounded.numel() + 8 * len(rounded) + bias.nbytes
        self.rest = (bias, *geometry, *_form(result, values))
        self.added = (1.0, 0) if added is None else (added.step, added.zero)
        self.activation = activation

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        activation = self.activation
        result: Tensor
        if other is None:
            result = torch.ops.onednn.qconv2d_pointwise(
                x, *self.inputs, *self.weights, *self.rest, activation.name, activation.scalars, activation.algorithm
            )
            return result
        other = other.contiguous(memory_format=torch.channels_last)  # which it is, but after permutations
        result = torch.ops.onednn.qconv2d_pointwise.binary(
            x, *self.inputs, *self.weights, other, *self.rest, *self.added, "sum", 1.0, activation.name, [], None
        )
        return result


class IntegerLinear(nn.Module):
    """A linear layer of integers, and an activation; integers, or values where no scale is."""

    def __init__(
        self,
        linear: nn.Linear,
        input_shape: torch.Size,
        mean: Tensor,
        source: Scale,
        result: Scale | None,
        activation: Activation,
        values: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        steps, rounded = _integers_of(linear.weight.detach())
        rows = max(input_shape.numel() // linear.in_features, 1)
        packed = torch.ops.onednn.qlinear_prepack(rounded, [rows, linear.in_features])  # opaque, as above
        bias = _bias_without(rounded * steps[:, None] - linear.weight.detach(), linear.bias, mean)
        self.outputs = linear.out_features
        self.inputs = (source.step, source.zero)
        self.weights = (packed, steps, torch.zeros_like(steps, dtype=torch.int32))
        self.bytes = rounded.numel() + 8 * len(rounded) + bias.nbytes
        self.rest = (bias, *_form(result, values), activation.name, activation.scalars, activation.algorithm or "")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.onednn.qlinear_pointwise(x, *self.inputs, *self.weights, *self.rest)
        return result.view(*x.shape[:-1], self.outputs)  # which it has not where there are no samples


def _integers_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The step of every output, and the weights in integers."""
    steps = (weight.abs().flatten(1).amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return steps, (weight / steps.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8)


def _bias_without(error: Tensor, bias: Tensor | None, mean: Tensor, groups: int = 1) -> Tensor:
    """The bias that takes out what rounding the weights adds on average.

    (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019.)

    Args:
        error: of the weights, rounded, [outputs, inputs / groups].
        mean: of the inputs.
    """
    mean = mean.reshape(groups, -1).repeat_interleave(len(error) // groups, 0)
    added = (error * mean).sum(1)
    return -added if bias is None else bias.detach() - added


def _form(result: Scale | None, values: torch.dtype) -> tuple[float, int, torch.dtype]:
    """What oneDNN makes of its sums."""
    return (1.0, 0, values) if result is None else (result.step, result.zero, torch.uint8)
