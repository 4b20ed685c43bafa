"""Convolutions and linear layers of the CPU by oneDNN: weights packed once, what follows done while the result is in
cache.

    conv → activation                    one operation
    conv → sum with another map → ReLU   one operation, in the memory of the other map where nothing needs that any more
    linear → activation                  one operation

PyTorch's own compiler emits the same operations; here they run without it, and so without its minute of waiting.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from camfast.activations import Activation
from camfast.optimize.chains import Chains, linear_chains
from camfast.optimize.shapes import shapes_of
from camfast.trace import called_module

_OPERATIONS = ("_convolution_pointwise", "_linear_pointwise", "_reorder_linear_weight")


def available(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in a type on this processor, and PyTorch has the operations."""
    if not torch._C._has_mkldnn or not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


def pack(part: fx.GraphModule, inputs: tuple[Any, ...]) -> tuple[int, int]:
    """Replaces convolutions and linear layers, and what can be fused to them, by packed ones; how many of either.

    Weights are packed for the shapes that they meet with ``inputs``, and serve others too.
    """
    shapes = shapes_of(part, inputs)
    packed = _pack_convolutions(part, shapes), _pack_linears(part, shapes)
    part.recompile()
    return packed


def _pack_convolutions(part: fx.GraphModule, shapes: dict[Any, torch.Size | None]) -> int:
    chains = Chains(part, shapes, is_packable)
    packed: dict[fx.Node, fx.Node] = {}  # by what they have replaced
    for chain in chains.in_order():
        first, last = chain.nodes[0], chain.last
        other = None if chain.other is None else packed.get(chain.other, chain.other)
        in_place = other is not None and chains.may_overwrite(chain, other, packed.values())
        input_shape = shapes[first.args[0]]
        assert input_shape is not None  # of a convolution's input
        convolution = part.get_submodule(str(first.target))
        assert isinstance(convolution, nn.Conv2d)
        name = f"packed_{len(packed)}"
        part.add_submodule(name, Packed(convolution, input_shape, chain.activation, in_place))
        with part.graph.inserting_before(last):
            made = part.graph.call_module(name, (first.args[0], *(() if other is None else (other,))))
        chains.stands_for(made, last)
        shapes[made] = shapes[last]
        last.replace_all_uses_with(made)
        packed[last] = made
        for done in reversed(chain.nodes):
            part.graph.erase_node(done)
        part.delete_all_unused_submodules()  # at once: both forms of all weights would be much memory
    return len(packed)


def _pack_linears(part: fx.GraphModule, shapes: dict[Any, torch.Size | None]) -> int:
    packed = 0
    for chain in linear_chains(part):
        node, last = chain.nodes[0], chain.last
        linear = called_module(part, node)
        assert isinstance(linear, nn.Linear)
        if not available(linear.weight.dtype):
            continue
        input_shape = shapes[node.args[0]]
        assert input_shape is not None  # of a linear layer's input
        name = f"packed_linear_{packed}"
        part.add_submodule(name, PackedLinear(linear, input_shape, chain.activation))
        with part.graph.inserting_before(last):
            fused = part.graph.call_module(name, (node.args[0],))
        shapes[fused] = shapes[last]
        last.replace_all_uses_with(fused)
        for done in reversed(chain.nodes):
            part.graph.erase_node(done)
        part.delete_all_unused_submodules()
        packed += 1
    return packed


class Packed(nn.Module):
    """A convolution with packed weights, the sum with another map, and an activation."""

    def __init__(self, convolution: nn.Conv2d, input_shape: torch.Size, activation: Activation, in_place: bool) -> None:
        super().__init__()
        self.geometry: tuple[list[int], list[int], list[int], int] = (
            [int(side) for side in convolution.padding],
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self.input_shape = list(input_shape)
        # Opaque to PyTorch: neither a parameter nor a buffer, so that nothing casts or moves it.
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            convolution.weight.detach().to_mkldnn(), *self.geometry, self.input_shape
        )
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        self.bytes = convolution.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)
        self.activation = activation
        self.in_place = in_place

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        activation = self.activation
        result: Tensor
        if other is None:
            result = torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *self.geometry, activation.name, activation.scalars, activation.algorithm
            )
            return result
        relu = None if activation.name == "none" else activation.name
        if self.in_place:
            result = torch.ops.mkldnn._convolution_pointwise_.binary(
                other, x, self.weight, self.bias, *self.geometry, "add", 1.0, relu, [], None
            )
            return result
        result = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self.weight, self.bias, *self.geometry, "add", 1.0, relu, [], None
        )
        return result


class PackedLinear(nn.Module):
    """A linear layer with packed weights, and an activation."""

    def __init__(self, linear: nn.Linear, input_shape: torch.Size, activation: Activation) -> None:
        super().__init__()
        self.rows = input_shape.numel() // max(linear.in_features, 1)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), self.rows)  # opaque, as above
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.bytes = linear.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        activation = self.activation
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, activation.name, activation.scalars, activation.algorithm
        )
        return result


def is_packable(module: nn.Conv2d) -> bool:
    return module.padding_mode == "zeros" and not isinstance(module.padding, str) and available(module.weight.dtype)
