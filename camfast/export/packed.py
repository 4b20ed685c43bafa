"""Packed layers for TorchScript: a file holds plain weights, which are packed for the processor that loads it."""

import torch
from torch import Tensor, fx, nn

from camfast.optimize import onednn


def make_scriptable(part: fx.GraphModule) -> None:
    """Replaces the packed layers of a part of a model by such as TorchScript can save."""
    for name, module in list(part.named_modules()):
        if isinstance(module, (onednn.Packed, onednn.PackedLinear)):
            made = PackedConvolution(module) if isinstance(module, onednn.Packed) else PackedLinear(module)
            parent, _, own = name.rpartition(".")
            # Compiled here, as tracing would take the packed weight for a constant, which it cannot save.
            setattr(part.get_submodule(parent), own, torch.jit.script(made.eval()))


def as_numbers(values: list[float]) -> list[int | float | complex | None]:
    """The type that the operators ask for."""
    numbers: list[int | float | complex | None] = []
    for value in values:
        numbers.append(value)
    return numbers


class PackedConvolution(nn.Module):
    """:class:`camfast.optimize.onednn.Packed`."""

    geometry: tuple[list[int], list[int], list[int], int]
    """Padding, stride, dilation and groups."""
    bias: Tensor | None
    algorithm: str | None
    scalars: list[float]

    def __init__(self, packed: onednn.Packed) -> None:
        super().__init__()
        self.geometry = packed.geometry
        self.input_shape = packed.input_shape
        self.weight = packed.weight
        self.bias = packed.bias
        self.activation = packed.activation.name
        self.scalars = list(packed.activation.scalars)
        self.algorithm = packed.activation.algorithm
        self.in_place = packed.in_place

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        w, b = self.weight, self.bias
        p, s, d, g = self.geometry
        scalars = as_numbers(self.scalars)
        relu: str | None = None if self.activation == "none" else self.activation
        if other is None:
            alone: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, w, b, p, s, d, g, self.activation, scalars, self.algorithm
            )
            return alone
        if self.in_place:
            changed: Tensor = torch.ops.mkldnn._convolution_pointwise_(
                other, x, w, b, p, s, d, g, "add", 1.0, relu, scalars, None
            )
            return changed
        added: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, other, w, b, p, s, d, g, "add", 1.0, relu, scalars, None
        )
        return added

    @torch.jit.export
    def __getstate__(
        self,
    ) -> tuple[
        tuple[list[int], list[int], list[int], int],
        list[int],
        Tensor,
        Tensor | None,
        str,
        list[float],
        str | None,
        bool,
        bool,
    ]:
        return (
            self.geometry,
            self.input_shape,
            self.weight.to_dense(),
            self.bias,
            self.activation,
            self.scalars,
            self.algorithm,
            self.in_place,
            self.training,
        )

    @torch.jit.export
    def __setstate__(
        self,
        state: tuple[
            tuple[list[int], list[int], list[int], int],
            list[int],
            Tensor,
            Tensor | None,
            str,
            list[float],
            str | None,
            bool,
            bool,
        ],
    ) -> None:
        self.geometry, self.input_shape = state[0], state[1]
        p, s, d, g = self.geometry
        self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(state[2].to_mkldnn(), p, s, d, g, self.input_shape)
        self.bias, self.activation, self.scalars, self.algorithm = state[3], state[4], state[5], state[6]
        self.in_place, self.training = state[7], state[8]


class PackedLinear(nn.Module):
    """:class:`camfast.optimize.onednn.PackedLinear`."""

    bias: Tensor | None
    algorithm: str | None
    scalars: list[float]

    def __init__(self, packed: onednn.PackedLinear) -> None:
        super().__init__()
        self.rows = packed.rows
        self.weight = packed.weight
        self.bias = packed.bias
        self.activation = packed.activation.name
        self.scalars = list(packed.activation.scalars)
        self.algorithm = packed.activation.algorithm

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, self.activation, as_numbers(self.scalars), self.algorithm
        )
        return result

    @torch.jit.export
    def __getstate__(self) -> tuple[int, Tensor, Tensor | None, str, list[float], str | None, bool]:
        weight = self.weight.to_dense()
        return self.rows, weight, self.bias, self.activation, self.scalars, self.algorithm, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, Tensor, Tensor | None, str, list[float], str | None, bool]) -> None:
        self.rows = state[0]
        self.weight = torch.ops.mkldnn._reorder_linear_weight(state[1], self.rows)
        self.bias, self.activation, self.scalars, self.algorithm = state[2], state[3], state[4], state[5]
        self.training = state[6]
