"""BatchNorm in evaluation mode, as a graph calls it: a module, or a function of parameters and buffers."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from camfast.trace import called_module, is_constant


def called_norm(root: nn.Module, node: fx.Node) -> nn.BatchNorm2d | None:
    """The BatchNorm that a node calls, if it calls one, around the root's own tensors."""
    if node.op == "call_function" and node.target is F.batch_norm and node.args:
        arguments = [attribute(root, value) for value in node.args[1:]]
        return batch_norm_of(*arguments, **{name: attribute(root, value) for name, value in node.kwargs.items()})
    module = called_module(root, node)
    if type(module) is not nn.BatchNorm2d or module.running_mean is None or len(node.args) != 1 or node.kwargs:
        return None
    return module


def attribute(root: nn.Module, value: Any) -> Any:
    """The parameter or buffer that a node stands for; everything else as it is."""
    is_attribute = isinstance(value, fx.Node) and value.op == "get_attr" and not is_constant(value)
    return operator.attrgetter(str(value.target))(root) if is_attribute else value


def batch_norm_of(
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: Any = False,
    momentum: Any = 0.1,
    eps: Any = 1e-5,
) -> nn.BatchNorm2d | None:
    """The module that does what F.batch_norm does with these arguments; None where it would use those of a batch."""
    if training is not False or not all(isinstance(t, Tensor) for t in (running_mean, running_var, weight, bias)):
        return None
    with torch.device("meta"):
        module = nn.BatchNorm2d(len(running_mean), eps)
    module.running_mean, module.running_var = running_mean.detach(), running_var.detach()
    module.weight, module.bias = nn.Parameter(weight.detach(), False), nn.Parameter(bias.detach(), False)
    module.num_batches_tracked = None
    return module.eval()
