"""What may lie between a layer and global average pooling, and leaves every position to itself: BatchNorm in evaluation
mode, an activation, or both in this order.

TorchScript compiles it, and reads the annotations of attributes, which therefore are no strings
(``from __future__ import annotations`` makes them that).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camfast.activations import NO_ACTIVATION, Activation

_NAMES = {
    "relu": "ReLU",
    "hardtanh": "clamp",
    "leaky_relu": "LeakyReLU",
    "swish": "SiLU",
    "hardswish": "Hardswish",
    "gelu": "GELU",
}
ACTIVATIONS = frozenset(_NAMES)
"""Those whose derivative is known here."""


class Pointwise(nn.Module):
    """A function of the values of a map, the same at all positions, and its derivative.

    The tensors of BatchNorm are the model's own. It is computed in their precision, as the model does.
    """

    mean: Tensor | None
    variance: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    scalars: list[float]

    def __init__(self, norm: nn.BatchNorm2d | None = None, activation: Activation = NO_ACTIVATION) -> None:
        super().__init__()
        self.is_normed = norm is not None
        self.register_buffer("mean", None if norm is None else norm.running_mean)
        self.register_buffer("variance", None if norm is None else norm.running_var)
        self.register_parameter("weight", None if norm is None else norm.weight)
        self.register_parameter("bias", None if norm is None else norm.bias)
        self.eps = 0.0 if norm is None else norm.eps
        self.activation = activation.name
        self.scalars = list(activation.scalars)
        self.approximate = activation.algorithm or "none"

    def steps(self) -> list[str]:
        """For the plan."""
        return [*(["BatchNorm"] if self.is_normed else []), *([] if self.is_linear() else [_NAMES[self.activation]])]

    def may_change_its_input(self) -> bool:
        """Whether the model may do this in place."""
        return not self.is_normed and not self.is_linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.normed(x)
        if self.activation == "relu":
            return x.relu()
        if self.activation == "hardtanh":
            return F.hardtanh(x, self.scalars[0], self.scalars[1])
        if self.activation == "leaky_relu":
            return F.leaky_relu(x, self.scalars[0])
        if self.activation == "swish":
            return F.silu(x)
        if self.activation == "hardswish":
            return F.hardswish(x)
        if self.activation == "gelu":
            return F.gelu(x, approximate=self.approximate)
        return x

    def normed(self, x: Tensor) -> Tensor:
        """After BatchNorm."""
        mean, variance = self.mean, self.variance
        if mean is None or variance is None:
            return x
        return F.batch_norm(x.to(mean.dtype), mean, variance, self.weight, self.bias, False, 0.0, self.eps)

    def is_linear(self) -> bool:
        """Whether its derivative is the same at all positions."""
        return self.activation == "none"

    def scaled(self, gradient: Tensor) -> Tensor:
        """A gradient by channel, before BatchNorm: [N, C] or [N, K, C]."""
        variance, weight = self.variance, self.weight
        if variance is None:
            return gradient
        scale = (variance + self.eps).rsqrt()
        return gradient * (scale if weight is None else scale * weight)

    def back(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at every position of x, [N, C, h, w] or [N, K, C, h, w], of one that is the same at all of them
        behind the function, [N, C] or [N, K, C]."""
        if self.activation == "none":
            spread = self.scaled(gradient)[..., None, None].to(x.dtype)
            return spread.expand(gradient.shape + x.shape[2:])
        y = self.normed(x)
        spread = self.scaled(gradient)[..., None, None].to(y.dtype).expand(gradient.shape + x.shape[2:])
        if gradient.dim() == 3:
            y = y[:, None].expand(spread.shape)
        return self.before_activation(spread, y).to(x.dtype)

    def before_activation(self, gradient: Tensor, y: Tensor) -> Tensor:
        """The gradient before the activation of y; as autograd has it, also at the edges."""
        before = gradient
        if self.activation == "relu":
            before = torch.ops.aten.threshold_backward(gradient, y, 0)
        if self.activation == "hardtanh":
            before = torch.ops.aten.hardtanh_backward(gradient, y, self.scalars[0], self.scalars[1])
        if self.activation == "leaky_relu":
            before = torch.ops.aten.leaky_relu_backward(gradient, y, self.scalars[0], False)
        if self.activation == "swish":
            before = torch.ops.aten.silu_backward(gradient, y)
        if self.activation == "hardswish":
            before = torch.ops.aten.hardswish_backward(gradient, y)
        if self.activation == "gelu":
            before = torch.ops.aten.gelu_backward(gradient, y, approximate=self.approximate)
        return before
