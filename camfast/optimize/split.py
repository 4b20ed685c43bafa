"""A traced model in two parts: up to the target layer, which needs no gradient, and from there to the output."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from camfast.structure import modules_of
from camfast.trace import Trace, drop_unused, is_batch_size

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Parts:
    """Two graphs, each with modules of its own.

    ``before`` takes the tensors of a batch and gives what the first layers put out, and then whatever else the second
    part needs. ``after`` takes that and gives the output, and then what later layers put out. It has no in-place
    operation on what a target layer put out.
    """

    before: fx.GraphModule
    first: list[str]
    """The target layers at the end of the first part."""
    after: fx.GraphModule | None
    later: list[str]
    """The target layers inside the second part."""


def split(trace: Trace, whole: bool, dtype: torch.dtype | None) -> Parts:
    """The two parts; only the first where ``whole`` is False.

    The first one has weights of its own, in the precision of the model's; the second one has them in another ``dtype``,
    or shares the memory of the model's. No parameter asks for a gradient.

    Raises:
        Exception: whatever copying the model's modules raises.
    """
    if len(set(trace.layers.values())) < len(trace.layers):
        raise ValueError("two target layers put out the same map")
    begin, dependent = _after_layers(trace)
    first = [name for name, node in trace.layers.items() if node in begin]
    later = [name for name, node in trace.layers.items() if node in dependent]
    leading = [node for node in trace.graph.nodes if node not in dependent and node.op != "output"]
    carried = _carried(leading, begin, dependent)
    inputs = [node for node in leading if node.op == "placeholder"]
    results = [*begin, *carried] if whole else begin
    # A copy, as what is done to it must not reach the model.
    before = copy.deepcopy(_part(trace, inputs, leading, results, kept=[])).requires_grad_(False)
    if not whole:
        return Parts(before, first, None, [])
    trailing = [node for node in trace.graph.nodes if node in dependent or node.op == "get_attr"]
    results = [trace.output, *(trace.layers[name] for name in later)]
    after = _part(trace, [*begin, *carried], trailing, results, kept=list(trace.layers.values()))
    return Parts(before, first, copied(after, dtype), later)


@dataclass(frozen=True)
class Rest:
    """What follows a layer, by itself, on the model's own weights."""

    before: fx.GraphModule | None
    """Makes, from the tensors of a batch, all that ``after`` needs beside what the layer put out; None for nothing."""
    sizes: tuple[bool, ...]
    """Which of that are numbers of samples."""
    after: fx.GraphModule
    """Takes what the layer put out, and all else. What is put in is never changed in place."""


def rest_of(trace: Trace, name: str) -> Rest:
    """What follows a layer, as graphs.

    Raises:
        ValueError: something there may remember earlier calls, or the weights of then.
    """
    alone = dataclasses.replace(trace, layers={name: trace.layers[name]})
    (layer,), dependent = _after_layers(alone)
    leading = [node for node in trace.graph.nodes if node not in dependent and node.op != "output"]
    carried = _carried(leading, [layer], dependent)
    trailing = [node for node in trace.graph.nodes if node in dependent or node.op == "get_attr"]
    used = [*trailing, *(leading if carried else [])]
    if any(map(trace.is_opaque, used)):
        raise ValueError("a module is opaque")
    after = copied(_part(alone, [layer, *carried], trailing, [trace.output], kept=[layer, *carried]), None)
    if not carried:
        return Rest(None, (), after)
    inputs = [node for node in leading if node.op == "placeholder"]
    before = copied(_part(alone, inputs, leading, carried, kept=[]), None)
    return Rest(before, tuple(map(is_batch_size, carried)), after)


def copied(module: Module, dtype: torch.dtype | None) -> Module:
    """A copy around the same parameters and buffers, or around others in another precision; without gradients."""

    def cast(tensor: Tensor) -> Tensor:
        if dtype is None:
            return tensor
        return tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    # What deepcopy finds here it does not copy: a weight is never there a second time in its own precision. Scripted
    # modules copy theirs all the same.
    owners = [part for part in modules_of(module) if not isinstance(part, torch.jit.ScriptModule)]
    buffers = {id(held): held for part in owners for held in part._buffers.values() if held is not None}
    weights = {id(held): held for part in owners for held in part._parameters.values() if held is not None}
    made: dict[int, Any] = {key: cast(buffer) for key, buffer in buffers.items()}
    made |= {key: nn.Parameter(cast(weight.detach()), False) for key, weight in weights.items()}
    with torch.no_grad():  # else what scripted modules copy for themselves has a graph
        result = copy.deepcopy(module, made).requires_grad_(False)
    return result if dtype is None else result.to(dtype)


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _after_layers(trace: Trace) -> tuple[list[fx.Node], set[fx.Node]]:
    """The target layers that depend on no other, and all that depends on them."""
    begin: list[fx.Node] = []
    dependent: set[fx.Node] = set()
    for node in trace.graph.nodes:
        if node.op != "output" and any(source in begin or source in dependent for source in node.all_input_nodes):
            dependent.add(node)
        elif node in trace.layers.values():
            begin.append(node)
    return begin, dependent


def _carried(leading: list[fx.Node], begin: list[fx.Node], dependent: set[fx.Node]) -> list[fx.Node]:
    """What is needed after the layers beside what they put out."""
    return [
        node
        for node in leading
        if node not in begin and node.op != "get_attr" and any(user in dependent for user in node.users)
    ]


def _part(
    trace: Trace, inputs: list[fx.Node], nodes: list[fx.Node], outputs: list[fx.Node], kept: list[fx.Node]
) -> fx.GraphModule:
    """Some nodes of the graph. What is ``kept`` goes on as a clone, out of reach of in-place operations."""
    graph = fx.Graph()
    original: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in inputs}
    onward: dict[fx.Node, fx.Node] = {}  # what goes on of a value
    for node in [*inputs, *(node for node in nodes if node not in inputs)]:
        if node not in original:
            original[node] = graph.node_copy(node, lambda old: onward[old])
        onward[node] = graph.call_function(_cloned, (original[node],)) if node in kept else original[node]
    graph.output(tuple(original[node] for node in outputs))
    part = fx.GraphModule(trace.root, graph, "Part")
    drop_unused(part.graph, part)
    part.recompile()
    return part
