"""A model as a graph of operations, with its target layers marked: what the plan of an engine is made from."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import stochastic_depth

from camfast.errors import first_line
from camfast.hollow import hides_modules, hollow_copy, spare_buffers
from camfast.inputs import PLAIN, Batch
from camfast.structure import modules_of

_tracing = threading.Lock()  # fx patches torch.nn.Module for the length of a trace


class NotTraceable(Exception):
    """Why a model cannot be seen as a graph: one line."""


@dataclass(frozen=True)
class Trace:
    """A model in evaluation mode as a graph of one input: the tuple of the tensors of a batch."""

    root: nn.Module
    """Owns the modules of the graph: copies without tensors of their own, so that they follow the model's weights."""
    graph: fx.Graph
    layers: dict[str, fx.Node]
    """What each target layer puts out, in its last run."""
    output: fx.Node
    opaque: frozenset[type[nn.Module]]
    """Modules of these types, where they hold no target layer, are single nodes, as no graph can be had of them."""

    def is_opaque(self, node: fx.Node) -> bool:
        """Whether what a node computes is not known: it may depend on values, and remember earlier calls."""
        return type(self.module(node)) in self.opaque

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        return called_module(self.root, node)


def trace(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, select: Callable[[Any], Any]) -> Trace:
    """The graph of a model, found without running it.

    ``select`` takes the output from whatever the model returns. A module whose way depends on values in its tensors, or
    on their sizes, becomes a single node. Where that holds a target layer, and where a module is called that the model
    does not own, there is no such graph.

    Raises:
        NotTraceable: what stands in the way.
    """
    for value in batch.values:
        if not isinstance(value, (torch.Tensor, *PLAIN)):
            raise NotTraceable(f"an input is a {type(value).__name__}, whose contents may change")
    opaque: set[type[nn.Module]] = set()
    while True:
        try:
            root, graph, tracer = _traced(model, layers, batch, opaque)
            break
        except _Opaque as found:
            opaque.add(found.kind)
    (end,) = (node for node in graph.nodes if node.op == "output")
    try:
        output = select(end.args[0])
    except Exception as error:
        raise NotTraceable("its output cannot be selected from a graph") from error
    if not isinstance(output, fx.Node):
        raise NotTraceable(f"its output is a {type(output).__name__}")
    missing = [name for name in layers if name not in tracer.layers]
    if missing:
        raise NotTraceable(f"layer {missing[0]!r} does not run as a module of its own")
    end.args = (output,)
    return Trace(root, graph, tracer.layers, output, frozenset(opaque))


class _Opaque(Exception):
    """A kind of modules of which no graph can be had, and which may be single nodes."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__(kind)
        self.kind = kind


def _traced(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, opaque: set[type[nn.Module]]
) -> tuple[nn.Module, fx.Graph, _Tracer]:
    """One attempt, on a copy of its own: the last one may have left stand-ins in what it wrote into itself."""
    copies: dict[int, nn.Module] = {}
    tracer: _Tracer | None = None
    try:
        whole = hollow_copy(model, copies)
        root = _Call(whole, batch)
        marked = {id(copies[id(module)]): name for name, module in layers.items() if id(module) in copies}
        tracer = _Tracer(marked, _holders(whole, marked), opaque)
        with _tracing, spare_buffers(copies):
            return root, tracer.trace(root), tracer
    except NotTraceable:
        raise
    except Exception as error:  # anything may come out of a model that meets a stand-in for its input
        if tracer is not None and tracer.failed is not None:
            raise _Opaque(tracer.failed) from error
        raise NotTraceable(first_line(error)) from error


def _holders(whole: nn.Module, marked: Mapping[int, str]) -> set[int]:
    """The model, and the modules of it that hold a marked one."""
    holding = (m for m in modules_of(whole) if any(id(inner) in marked for inner in modules_of(m) if inner is not m))
    return {id(whole), *map(id, holding)}


def drop_unused(graph: fx.Graph, root: nn.Module) -> None:
    """Removes what nobody uses and what changes nothing in place."""
    graph.eliminate_dead_code(lambda node: not is_pure(node, called_module(root, node)))


def called_module(root: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_pure(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether nothing is lost with a node that nobody uses; in-place operations end in an underscore."""
    if node.op in ("placeholder", "output"):
        return False
    if module is not None:
        return not getattr(module, "inplace", False)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "_")
    return not name.endswith("_") and name not in _IN_PLACE


# Operators such as `x += y`, as the module `operator` names them.
_IN_PLACE = frozenset(
    f"i{name}" for name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
)


def is_identity(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node passes on what it gets, in evaluation mode."""
    if module is not None:
        return isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout))
    if node.op == "call_function":
        if node.target in (F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout):
            return argument(node, 2, "training", True) is False
        if node.target is stochastic_depth:
            return argument(node, 3, "training", True) is False
    return node.op == "call_method" and node.target == "contiguous" and len(node.args) == 1


def is_constant(node: fx.Node) -> bool:
    """Whether a node is a tensor as it was when the model was traced, perhaps computed from buffers of then."""
    return node.op == "get_attr" and str(node.target).startswith("_tensor_constant")


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """An argument of a node, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def is_batch_size(value: Any) -> bool:
    """Whether a node is ``x.size(0)``, ``x.size()[0]`` or ``x.shape[0]``."""
    if not isinstance(value, fx.Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return value.args[1:] == (0,)
    sizes = value.args[0]
    if value.target is not operator.getitem or value.args[1:] != (0,) or not isinstance(sizes, fx.Node):
        return False
    if sizes.op == "call_method":
        return sizes.target == "size" and len(sizes.args) == 1
    return sizes.target is getattr and sizes.args[1:] == ("shape",)


class _Call(nn.Module):
    """Calls a model with the tensors of a batch, the other inputs being as they are."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model = model
        self._batch = batch.map(lambda _: torch.empty(0))

    def forward(self, tensors: Any) -> Any:
        return self._batch.filled(tensors).call(self.model)


class _Tracer(fx.Tracer):
    """Records the modules of PyTorch as they are, goes through all others, and marks the target layers.

    While fx traces, every call of a module passes through here, also one in another thread: that one is let through.
    """

    def __init__(self, names: Mapping[int, str], holders: set[int], opaque: set[type[nn.Module]]) -> None:
        """
        Args:
            names: of the target layers.
            holders: modules that are gone through, or nothing is had: the model, and those that hold one.
            opaque: what else is recorded as it is.
        """
        none: Any = ()  # some versions of torch are typed for exactly one module
        super().__init__(autowrap_modules=none)
        self.layers: dict[str, fx.Node] = {}
        self.failed: type[nn.Module] | None = None
        """The innermost of the modules that cannot be gone through, and could be recorded as it is."""
        self._names = names
        self._holders = holders
        self._opaque = opaque
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in self._opaque and id(m) not in self._holders:
            if any(map(hides_modules, modules_of(m))):
                raise NotTraceable(f"it calls modules that a {type(m).__name__} does not own")
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        try:
            return super().path_of_module(mod)
        except NameError as error:
            raise NotTraceable(f"it calls a {type(mod).__name__} that it does not own") from error

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None and type(m) not in self._opaque and id(m) not in self._holders:
                self.failed = type(m)
            raise
        name = self._names.get(id(m))
        if name is not None:
            if not isinstance(result, fx.Proxy):
                raise NotTraceable(f"layer {name!r} puts out a {type(result).__name__}")
            if any(isinstance(given, fx.Proxy) and given.node is result.node for given in (*args, *kwargs.values())):
                result = self.create_proxy("call_function", torch.clone, (result,), {})  # else one node is two values
            self.layers[name] = result.node
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)
