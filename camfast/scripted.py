"""A model that was scripted or traced, opened at a layer: what leads to it and what follows, with a module between.

Hooks cannot see into a ScriptModule, but its graph can be cut: in a private copy every call of the layer is marked, the
whole is inlined and frozen, and what lies in front of the mark and what lies behind it become functions.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from camfast.errors import ModelError, first_line
from camfast.quiet import without_notices
from camfast.suggest import did_you_mean
from camfast.trace import NotTraceable

_MARK = "aten::alias"
_CALL = "prim::CallMethod"
_REMEDY = "choose another layer, or give the module that it was made from"


class Opened(nn.Module):
    """A ScriptModule as two functions, and between them the layer as a module of its own, under its own name."""

    def __init__(self, model: torch.jit.ScriptModule, layer: str) -> None:
        """
        Raises:
            ValueError: the layer is not in the model, or its graph cannot be cut there; the message says what to do.
        """
        super().__init__()
        self.layer = layer
        with without_notices():
            own = independent(model)  # with graphs that are nobody else's
            frozen, mark = _frozen(own, layer)
            graph = frozen.graph
            self.before: Any = _function(_leading(graph.copy(), mark))
            self.after: Any = _function(_trailing(graph.copy(), mark))
            self.whole: Any = _function(_with_cut(graph.copy(), mark))
            """Gives the output, and what the layer put out, where a graph of autograd begins."""
        self._origin = (own, frozen)  # whose functions torch looks for when it says where an error lies
        owner: nn.Module = self
        *outer, own = layer.split(".")
        for name in outer:
            owner.add_module(name, nn.Module())
            owner = owner.get_submodule(name)
        owner.add_module(own, nn.Identity())
        self.eval()

    def forward(self, *inputs: Any) -> Any:
        if any(isinstance(given, fx.Proxy) for given in inputs):
            raise NotTraceable("the model is a ScriptModule")
        begun = self.before(*inputs)
        activations, *carried = begun if isinstance(begun, tuple) else (begun,)
        return self.after(self.get_submodule(self.layer)(activations), *carried)

    def __deepcopy__(self, memo: Any) -> Opened:
        result = memo[id(self)] = object.__new__(Opened)
        shared = ("before", "after", "whole", "_origin")  # which do not change, and torch cannot copy
        result.__dict__ = {
            name: value if name in shared else copy.deepcopy(value, memo) for name, value in vars(self).items()
        }
        return result


def opened(model: torch.jit.ScriptModule, target_layers: Any) -> tuple[Opened, str]:
    """The model, opened at its target layer.

    Raises:
        TypeError: no layer is given by name, or several are.
        ModelError: as :class:`Opened`.
    """
    names = [target_layers] if isinstance(target_layers, str) else target_layers
    if not isinstance(names, (list, tuple)) or len(names) != 1 or not isinstance(names[0], str):
        raise TypeError(
            "model is a torch.jit.ScriptModule, which hooks cannot see into; give one layer by its dotted name, "
            'target_layers=["layer4"], or the module that it was made from'
        )
    return Opened(model, names[0]), names[0]


def independent(model: torch.jit.ScriptModule) -> Any:
    """A copy that shares neither tensors nor code: modules of one origin share their graphs, and torch's errors look
    for functions from which others were made."""
    saved = io.BytesIO()
    torch.jit.save(model, saved)
    saved.seek(0)
    return torch.jit.load(saved)  # type: ignore[no-untyped-call]


def _frozen(own: Any, layer: str) -> tuple[Any, int]:
    """The module in evaluation mode with weights as constants, all in one graph; and which of its nodes is the mark
    behind the last run of the layer. It is changed."""
    names = [name for name, _ in own.named_modules() if name]
    if layer not in names:
        raise ModelError(f"target layer {layer!r} is not in the model; {did_you_mean(layer, names)}")
    own.eval()
    for parameter in own.parameters():
        parameter.requires_grad_(False)
    _mark(own, layer.split("."))
    called = list(_marked_calls(dict(own.named_modules(remove_duplicate=False)), "", "forward"))
    try:
        frozen = torch.jit.freeze(own, optimize_numerics=False)
    except RuntimeError as error:
        raise ModelError(f"the ScriptModule cannot be frozen ({first_line(error)}); {_REMEDY}") from error
    graph = frozen.graph
    marks = list(graph.findAllNodes(_MARK))
    runs = [mark for mark, path in zip(marks, called, strict=False) if path == layer]
    if not runs or len(marks) != len(called):
        raise ModelError(f"layer {layer!r} does not run as a module of its own in the ScriptModule; {_REMEDY}")
    if next(graph.inputs()).uses():
        raise ModelError(f"the ScriptModule has parts that torch.jit.freeze leaves as they are; {_REMEDY}")
    nodes = list(graph.nodes())
    if runs[-1] not in nodes:
        raise ModelError(f"layer {layer!r} runs inside a branch or a loop of the ScriptModule; {_REMEDY}")
    return frozen, nodes.index(runs[-1])


def _mark(model: Any, path: list[str]) -> None:
    """Puts a mark behind every call of a module that the path may mean: modules of one type share their graphs."""
    for module in model.modules():
        for method in module._c._method_names():
            graph = module._c._get_method(method).graph
            for call in graph.findAllNodes(_CALL):
                output, names = call.output(), _names(call)
                if _is_marked(call) or not names or path[-len(names) :] != names or not _runs(call):
                    continue
                if output.type().kind() != "TensorType":
                    raise ModelError(f"layer {'.'.join(path)!r} puts out {output.type()}, not one tensor; {_REMEDY}")
                mark = graph.create(_MARK, [output], 1)
                mark.insertAfter(call)
                mark.output().setType(output.type())
                output.replaceAllUsesAfterNodeWith(mark, mark.output())


def _marked_calls(modules: Mapping[str, Any], path: str, method: str) -> Iterator[str]:
    """The paths of the modules whose calls are marked, in the order in which they end; a branch counts as taken."""
    for call in modules[path]._c._get_method(method).graph.findAllNodes(_CALL):
        called = ".".join(filter(None, (path, *_names(call))))
        yield from _marked_calls(modules, called, call.s("name"))
        if _is_marked(call):
            yield called


def _names(call: Any) -> list[str]:
    """The names by which a graph gets at the module that it calls, from its own on."""
    names: list[str] = []
    owner = next(call.inputs())
    while owner.node().kind() == "prim::GetAttr":
        names.insert(0, owner.node().s("name"))
        owner = next(owner.node().inputs())
    return names


def _runs(call: Any) -> bool:
    """Whether a call is one of the module itself; tracing numbers them."""
    return str(call.s("name")).startswith("forward")


def _is_marked(call: Any) -> bool:
    return any(use.user.kind() == _MARK for use in call.output().uses())


def _carried(graph: Any, mark: Any, nodes: list[Any]) -> list[Any]:
    """What is made before the mark, or given, and used after it; constants belong to either part."""
    made = [value for node in nodes if node.kind() != "prim::Constant" for value in node.outputs()]
    return [
        value
        for value in [*list(graph.inputs())[1:], *made]
        if any(use.user != mark and use.user.isAfter(mark) for use in value.uses())
    ]


def _leading(graph: Any, index: int) -> Any:
    """Gives what the layer put out, and what is carried."""
    nodes = list(graph.nodes())
    mark = nodes[index]
    results = [next(mark.inputs()), *_carried(graph, mark, nodes[:index])]
    _set_outputs(graph, results)
    for node in reversed(nodes[index:]):
        node.destroy()
    graph.eraseInput(0)  # the module, whose parameters are constants now
    return graph


def _trailing(graph: Any, index: int) -> Any:
    """Takes that, and gives the output of the model."""
    nodes = list(graph.nodes())
    given, mark = len(list(graph.inputs())), nodes[index]
    for value in [mark.output(), *_carried(graph, mark, nodes[:index])]:
        taken = graph.addInput()
        taken.setType(value.type())
        value.replaceAllUsesWith(taken)
    for node in reversed(nodes[: index + 1]):
        if node.kind() != "prim::Constant":
            node.destroy()
    for _ in range(given):
        graph.eraseInput(0)
    return graph


def _with_cut(graph: Any, index: int) -> Any:
    """Gives the output, and what the layer put out, detached, and asking for a gradient."""
    mark = list(graph.nodes())[index]
    graph.setInsertPoint(mark)
    detached = graph.insert("aten::detach", [next(mark.inputs())])
    start = graph.insert("aten::requires_grad_", [detached, graph.insertConstant(True)])
    # What follows may change a clone in place.
    mark.output().replaceAllUsesWith(graph.insert("aten::clone", [start]))
    mark.destroy()
    _set_outputs(graph, [*graph.outputs(), start])
    graph.eraseInput(0)
    return graph


def _set_outputs(graph: Any, values: list[Any]) -> None:
    for _ in range(len(list(graph.outputs()))):
        graph.eraseOutput(0)
    for value in values:
        graph.registerOutput(value)
    if len(values) > 1:
        graph.makeMultiOutputIntoTuple()


def _function(graph: Any) -> Any:
    graph.lint()
    return torch._C._create_function_from_graph("part", graph)
