"""A model as a graph of operations, with its target layers marked: what the plan of an engine is made from."""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import stochastic_depth

from camfast.errors import first_line
from camfast.inputs import PLAIN, Batch

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

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        return called_module(self.root, node)


def trace(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, select: Callable[[Any], Any]) -> Trace:
    """The graph of a model, found without running it.

    ``select`` takes the output from whatever the model returns. A model whose way depends on values in its tensors,
    and one that calls modules which it does not own, has no such graph.

    Raises:
        NotTraceable: what stands in the way.
    """
    for value in batch.values:
        if not isinstance(value, (torch.Tensor, *PLAIN)):
            raise NotTraceable(f"an input is a {type(value).__name__}, whose contents may change")
    copies: dict[int, nn.Module] = {}
    try:
        root = _Call(_hollow_copy(model, copies), batch)
        tracer = _Tracer({id(copies[id(module)]): name for name, module in layers.items() if id(module) in copies})
        with _tracing, _spare_buffers(copies):
            graph = tracer.trace(root)
    except NotTraceable:
        raise
    except Exception as error:  # anything may come out of a model that meets a stand-in for its input
        raise NotTraceable(first_line(error)) from error
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
    return Trace(root, graph, tracer.layers, output)


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


def _hollow_copy(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """The tree of modules anew, in evaluation mode and without hooks, around the same parameters and buffers.

    What a model writes into itself while it is traced (stand-ins for tensors) is written there.
    """
    if id(module) in copies or isinstance(module, torch.jit.ScriptModule):
        return copies.setdefault(id(module), module)
    copy = object.__new__(type(module))
    copies[id(module)] = copy
    # A list, dict or set of the model's own is copied, too: a model may collect something there.
    copy.__dict__ = {
        name: type(value)(value) if type(value) in (list, dict, set) else value for name, value in vars(module).items()
    }
    for kept in ("_parameters", "_buffers"):
        copy.__dict__[kept] = dict(vars(module)[kept])
    for emptied in _HOOKS:
        if emptied in copy.__dict__:
            copy.__dict__[emptied] = type(vars(module)[emptied])()
    copy.__dict__["_modules"] = {
        name: child if child is None else _hollow_copy(child, copies)
        for name, child in vars(module)["_modules"].items()
    }
    copy.__dict__["_compiled_call_impl"] = None
    copy.__dict__["training"] = False
    return copy


@contextlib.contextmanager
def _spare_buffers(copies: Mapping[int, nn.Module]) -> Iterator[None]:
    """Gives the copies buffers of their own for a block: what a model does to them happens there, also in a trace."""
    kept = [(module, module._buffers) for module in copies.values() if not isinstance(module, torch.jit.ScriptModule)]
    try:
        for module, buffers in kept:
            module._buffers = {name: None if t is None else t.clone() for name, t in buffers.items()}
        yield
    finally:
        for module, buffers in kept:
            module._buffers = buffers


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class _Tracer(fx.Tracer):
    """Records the modules of PyTorch as they are, goes through all others, and marks the target layers.

    While fx traces, every call of a module passes through here, also one in another thread: that one is let through.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        none: Any = ()  # some versions of torch are typed for exactly one module
        super().__init__(autowrap_modules=none)
        self.layers: dict[str, fx.Node] = {}
        self._names = names
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        result = super().call_module(m, forward, args, kwargs)
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
