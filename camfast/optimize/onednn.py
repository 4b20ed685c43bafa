"""Convolutions and linear layers of the CPU by oneDNN: weights packed once, what follows done while the result is in
cache.

    conv → activation                    one operation
    conv → sum with another map → ReLU   one operation, in the memory of the other map where nothing needs that any more
    linear → activation                  one operation

PyTorch's own compiler emits the same operations; here they run without it, and so without its minute of waiting.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from camfast.optimize.shapes import shapes_of
from camfast.trace import called_module

Module = TypeVar("Module", bound=nn.Module)

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
    order = {node: index for index, node in enumerate(part.graph.nodes)}
    packed: dict[fx.Node, Packed] = {}
    for node, convolution in _calls_of(nn.Conv2d, part):
        if not is_packable(convolution):
            continue
        chain, activation, other = _what_follows(part, node, shapes)
        last = chain[-1]
        name = f"packed_{len(packed)}"
        in_place = other is not None and other is not node.args[0] and _is_free_after(other, chain, packed, part, order)
        input_shape = shapes[node.args[0]]
        assert input_shape is not None  # of a convolution's input
        module = Packed(convolution, input_shape, activation, in_place)
        part.add_submodule(name, module)
        with part.graph.inserting_before(last):
            fused = part.graph.call_module(name, (node.args[0], *(() if other is None else (other,))))
        order[fused], shapes[fused] = order[last], shapes[last]
        last.replace_all_uses_with(fused)
        packed[fused] = module
        for done in reversed(chain):
            part.graph.erase_node(done)
        part.delete_all_unused_submodules()  # at once: both forms of all weights would be much memory
    return len(packed)


def _pack_linears(part: fx.GraphModule, shapes: dict[Any, torch.Size | None]) -> int:
    packed = 0
    for node, linear in _calls_of(nn.Linear, part):
        if not available(linear.weight.dtype):
            continue
        users = list(node.users)
        activation = _activation(users[0], called_module(part, users[0])) if len(users) == 1 else None
        last = node if activation is None else users[0]
        input_shape = shapes[node.args[0]]
        assert input_shape is not None  # of a linear layer's input
        name = f"packed_linear_{packed}"
        part.add_submodule(name, PackedLinear(linear, input_shape, activation or Activation()))
        with part.graph.inserting_before(last):
            fused = part.graph.call_module(name, (node.args[0],))
        shapes[fused] = shapes[last]
        last.replace_all_uses_with(fused)
        for done in dict.fromkeys((last, node)):
            part.graph.erase_node(done)
        part.delete_all_unused_submodules()
        packed += 1
    return packed


def _calls_of(kind: type[Module], part: fx.GraphModule) -> list[tuple[fx.Node, Module]]:
    """All calls of modules of a kind, with nothing but an input."""
    calls = ((node, called_module(part, node)) for node in part.graph.nodes if len(node.args) == 1 and not node.kwargs)
    return [(node, module) for node, module in calls if type(module) is kind]


@dataclass(frozen=True)
class Activation:
    """As oneDNN calls it."""

    name: str = "none"
    scalars: tuple[float, ...] = ()
    algorithm: str | None = None


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


def _what_follows(
    part: fx.GraphModule, node: fx.Node, shapes: dict[Any, torch.Size | None]
) -> tuple[list[fx.Node], Activation, fx.Node | None]:
    """A convolution with what can be fused to it, the activation at the end, and the map that is added before that."""
    alone: tuple[list[fx.Node], Activation, None] = [node], Activation(), None
    if len(node.users) != 1:
        return alone
    (user,) = node.users
    activation = _activation(user, called_module(part, user))
    if activation is not None:
        return [node, user], activation, None
    if user.op != "call_function" or user.target not in (operator.add, operator.iadd, torch.add) or user.kwargs:
        return alone
    others = [source for source in user.args if source is not node]
    if len(others) != 1 or not isinstance(others[0], fx.Node) or shapes[others[0]] != shapes[node]:
        return alone
    if len(user.users) == 1:
        (next_user,) = user.users
        if _activation(next_user, called_module(part, next_user)) == Activation("relu"):
            return [node, user, next_user], Activation("relu"), others[0]
    return [node, user], Activation(), others[0]


def _is_free_after(
    other: fx.Node, chain: list[fx.Node], packed: dict[fx.Node, Packed], part: fx.GraphModule, order: dict[fx.Node, int]
) -> bool:
    """Whether a chain may write the memory of a map that it reads: that is new memory, and nobody needs it later."""
    if other not in packed and type(called_module(part, other)) not in (nn.Conv2d, nn.MaxPool2d):
        return False
    return all(
        user in chain
        or (order[user] < order[chain[-1]] and (user in packed or type(called_module(part, user)) is nn.Conv2d))
        for user in other.users
    )


_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Hardswish: "hardswish",
    nn.SiLU: "swish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.hardswish: "hardswish",
    F.silu: "swish",
    F.hardsigmoid: "hardsigmoid",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
}
_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "tanh": "tanh"}


def _activation(node: fx.Node, module: nn.Module | None) -> Activation | None:
    if isinstance(module, (nn.ReLU6, nn.Hardtanh)):
        return Activation("hardtanh", (float(module.min_val), float(module.max_val)))
    if type(module) is nn.LeakyReLU:
        return Activation("leaky_relu", (float(module.negative_slope),))
    if type(module) is nn.GELU:
        return Activation("gelu", (), module.approximate)
    name = None
    if module is not None:
        name = _MODULES.get(type(module))
    elif node.op == "call_function":
        if node.target is F.relu6:
            return Activation("hardtanh", (0.0, 6.0))
        name = _FUNCTIONS.get(node.target)
    elif node.op == "call_method":
        name = _METHODS.get(str(node.target))
    return None if name is None else Activation(name)
