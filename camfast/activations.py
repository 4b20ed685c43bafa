"""Activation functions, as a graph calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from camfast.trace import argument


@dataclass(frozen=True)
class Activation:
    """As oneDNN calls it."""

    name: str = "none"
    scalars: tuple[float, ...] = ()
    algorithm: str | None = None


NO_ACTIVATION = Activation()

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
    torch.relu_: "relu",
    F.hardswish: "hardswish",
    F.silu: "swish",
    F.hardsigmoid: "hardsigmoid",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
}
_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "tanh": "tanh"}


def activation_of(node: fx.Node, module: nn.Module | None) -> Activation | None:
    """The activation that a call is, if it is one."""
    if isinstance(module, (nn.ReLU6, nn.Hardtanh)):
        return Activation("hardtanh", (float(module.min_val), float(module.max_val)))
    if type(module) is nn.LeakyReLU:
        return Activation("leaky_relu", (float(module.negative_slope),))
    if type(module) is nn.GELU:
        return Activation("gelu", (), module.approximate)
    if any(isinstance(value, fx.Node) for value in (*node.args[1:], *node.kwargs.values())):
        return None  # a slope that the model computes
    name = None
    if module is not None:
        name = _MODULES.get(type(module))
    elif node.op == "call_function":
        if node.target is F.relu6:
            return Activation("hardtanh", (0.0, 6.0))
        if node.target is F.leaky_relu:
            return Activation("leaky_relu", (float(argument(node, 1, "negative_slope", 0.01)),))
        if node.target is F.gelu:
            return Activation("gelu", (), argument(node, 1, "approximate", "none"))
        name = _FUNCTIONS.get(node.target)
    elif node.op == "call_method":
        name = _METHODS.get(str(node.target))
    return None if name is None else Activation(name)
