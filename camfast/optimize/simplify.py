"""What a graph can do without in evaluation mode, and what it can be made of: the same numbers from less work."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from camfast.norms import attribute, batch_norm_of
from camfast.optimize.attention import spell_out_attention
from camfast.optimize.shapes import shapes_of
from camfast.trace import called_module, drop_unused, is_identity


def simplify(part: fx.GraphModule, inputs: tuple[Any, ...]) -> int:
    """Everything below, in its order; how many BatchNorms were folded.

    Args:
        part: has parameters of its own, as it is changed.
        inputs: such as it will meet; the number of dimensions of everything is taken from them.
    """
    drop_checks(part, inputs)
    drop_identities(part)
    call_modules(part)
    spell_out_attention(part)
    fold_padding(part)
    folded = fold_batch_norm(part)
    drop_unused(part.graph, part)
    part.delete_all_unused_submodules()
    part.recompile()
    return folded


def drop_checks(part: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
    """Takes out assertions on the number of dimensions, users of a convolution that would keep it from being folded."""
    if not any(_asks_dimensions(node) for node in part.graph.nodes):
        return
    shapes = shapes_of(part, inputs)
    for node in list(part.graph.nodes):
        if _asks_dimensions(node):
            shape = shapes[node.args[0]]
            if shape is not None:
                _replace_by_value(node, len(shape))
        elif node.op == "call_function" and node.target is operator.eq and all(isinstance(a, int) for a in node.args):
            _replace_by_value(node, node.args[0] == node.args[1])
        elif node.op == "call_function" and node.target is torch._assert and node.args[0] is True:
            part.graph.erase_node(node)


def _asks_dimensions(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is getattr and node.args[1:] == ("ndim",)


def _replace_by_value(node: fx.Node, value: Any) -> None:
    for user in list(node.users):
        user.args = fx.node.map_arg(user.args, lambda n: value if n is node else n)
        user.kwargs = fx.node.map_arg(user.kwargs, lambda n: value if n is node else n)
    node.graph.erase_node(node)


def drop_identities(part: fx.GraphModule) -> None:
    """Takes out dropout and the like."""
    for node in list(part.graph.nodes):
        if is_identity(node, called_module(part, node)) and isinstance(node.args[0], fx.Node):
            node.replace_all_uses_with(node.args[0])
            part.graph.erase_node(node)


def call_modules(part: fx.GraphModule) -> None:
    """Convolutions and BatchNorms that are called as functions of parameters become modules, as all others are."""
    made: dict[Any, Callable[..., nn.Module | None]] = {
        F.conv2d: _convolution,
        torch.conv2d: _convolution,
        F.batch_norm: batch_norm_of,
    }
    for node in list(part.graph.nodes):
        if node.op != "call_function" or node.target not in made:
            continue
        args = [attribute(part, value) for value in node.args[1:]]
        kwargs = {name: attribute(part, value) for name, value in node.kwargs.items()}
        module = made[node.target](*args, **kwargs) if node.args else None
        if module is None:
            continue
        name = f"module_of_{node.name}"
        part.add_submodule(name, module)
        with part.graph.inserting_before(node):
            call = part.graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(call)
        part.graph.erase_node(node)


def _convolution(
    weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1
) -> nn.Conv2d | None:
    steps, zeros, gaps = map(_pair, (stride, padding, dilation))
    if steps is None or zeros is None or gaps is None or not isinstance(groups, int):
        return None
    if not isinstance(weight, Tensor) or not isinstance(bias, (Tensor, type(None))):
        return None
    rows, columns = weight.shape[2:]
    with torch.device("meta"):
        module = nn.Conv2d(
            weight.shape[1] * groups, len(weight), (rows, columns), steps, zeros, gaps, groups, bias is not None
        )
    module.weight = nn.Parameter(weight.detach(), False)
    module.bias = None if bias is None else nn.Parameter(bias.detach(), False)
    return module.eval()


def _pair(value: Any) -> tuple[int, int] | None:
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return both if len(both) == 2 and all(isinstance(n, int) for n in both) else None


def fold_padding(part: fx.GraphModule) -> None:
    """Zeros that are laid around a map for a convolution alone become that convolution's own padding."""
    calls = _calls(part)
    for node in list(part.graph.nodes):
        pad = called_module(part, node)
        users = list(node.users)
        if type(pad) is not nn.ZeroPad2d or len(users) != 1:
            continue
        convolution = called_module(part, users[0])
        if (
            type(convolution) is nn.Conv2d
            and calls[users[0].target] == 1
            and convolution.padding_mode == "zeros"
            and not isinstance(convolution.padding, str)
            and min(pad.padding) >= 0
            and _take_over(convolution, *pad.padding)
        ):
            node.replace_all_uses_with(node.args[0])
            part.graph.erase_node(node)


def _take_over(convolution: nn.Conv2d, left: int, right: int, top: int, bottom: int) -> bool:
    """Whether a convolution can lay zeros around its input itself; then it does.

    It lays as many on either side. Where there is to be one less on one of them, as TensorFlow has it, the kernel gets
    zeros there: of a depthwise one that costs less than the copy of the map which it saves.
    """
    rows, columns = max(top, bottom), max(left, right)
    missing = (columns - left, columns - right, rows - top, rows - bottom)
    if max(missing) > 0:
        depthwise = convolution.groups == convolution.in_channels > 1
        if not depthwise or max(missing) > 1 or convolution.dilation != (1, 1):
            return False
        kernel = F.pad(convolution.weight.detach(), missing)
        convolution.weight = nn.Parameter(kernel, False)
        convolution.kernel_size = (kernel.shape[2], kernel.shape[3])
    own = convolution.padding
    convolution.padding = (int(own[0]) + rows, int(own[1]) + columns)
    return True


def fold_batch_norm(part: fx.GraphModule) -> int:
    """Folds every BatchNorm2d that alone uses a convolution which runs once; how many there were."""
    calls = _calls(part)
    folded = 0
    for node in list(part.graph.nodes):
        norm = called_module(part, node)
        if type(norm) is not nn.BatchNorm2d or norm.running_mean is None or len(node.args) != 1:
            continue
        source = node.args[0]
        convolution = called_module(part, source) if isinstance(source, fx.Node) else None
        if type(convolution) is not nn.Conv2d or len(source.users) != 1 or calls[source.target] != 1:
            continue
        parent, _, name = str(source.target).rpartition(".")
        setattr(part.get_submodule(parent), name, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(source)
        part.graph.erase_node(node)
        folded += 1
    return folded


def _calls(part: fx.GraphModule) -> Counter[Any]:
    return Counter(node.target for node in part.graph.nodes if node.op == "call_module")
