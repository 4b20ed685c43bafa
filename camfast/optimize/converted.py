"""A graph that takes and gives float32, with another type inside."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, fx, nn

from camfast.trace import called_module, is_pure


def convert(part: fx.GraphModule, dtype: torch.dtype, keeps: tuple[type[nn.Module], ...] = ()) -> None:
    """Computes in another type, but for what is done to the inputs without tensors, and modules that take both.

    Args:
        part: in float32; has parameters of its own.
        keeps: modules that take float32 as it is.

    Raises:
        ValueError: an input is changed in place, which would be a copy of it.
    """
    part.to(dtype)
    early: set[fx.Node] = set()
    for node in part.graph.nodes:
        if node.op == "placeholder" or _is_early(node, called_module(part, node), early, keeps):
            early.add(node)
    for node in list(part.graph.nodes):
        if node.op != "output" and (node in early or isinstance(called_module(part, node), keeps)):
            continue
        for given in node.all_input_nodes:
            if node.op == "output":
                node.replace_input_with(given, _as(given, torch.float32, node))
            elif given in early:
                if not is_pure(node, called_module(part, node)):
                    raise ValueError(f"{node.name} changes an input in place")
                node.replace_input_with(given, _as(given, dtype, node))
    part.recompile()


def _is_early(node: fx.Node, module: nn.Module | None, early: set[fx.Node], keeps: tuple[type[nn.Module], ...]) -> bool:
    """Whether a node has nothing but what is early, and no parameters or buffers."""
    if node.op == "output" or not node.all_input_nodes or not early.issuperset(node.all_input_nodes):
        return False
    return module is None or not (
        isinstance(module, keeps) or any(True for _ in chain(module.parameters(), module.buffers()))
    )


def _as(node: fx.Node, dtype: torch.dtype, before: fx.Node) -> fx.Node:
    with node.graph.inserting_before(before):
        return node.graph.call_function(_floating, (node, dtype))


def _floating(value: object, dtype: torch.dtype) -> object:
    """Another type of what is a floating tensor."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
