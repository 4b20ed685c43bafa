"""The modules of a model anew, around the same parameters and buffers: for what may be written there."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import operator
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def hollow_copy(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """The tree of modules anew, in evaluation mode and without hooks, around the same parameters and buffers.

    What a model writes into itself while it is traced (stand-ins for tensors) is written there.
    """
    if id(module) in copies or isinstance(module, torch.jit.ScriptModule):
        return copies.setdefault(id(module), module)
    hollow = object.__new__(type(module))
    copies[id(module)] = hollow
    hollow.__dict__ = {name: _own(value, module, hollow) for name, value in vars(module).items()}
    for kept in ("_parameters", "_buffers"):
        hollow.__dict__[kept] = dict(vars(module)[kept])
    for emptied in _HOOKS:
        if emptied in hollow.__dict__:
            hollow.__dict__[emptied] = type(vars(module)[emptied])()
    hollow.__dict__["_modules"] = {
        name: child if child is None else hollow_copy(child, copies) for name, child in vars(module)["_modules"].items()
    }
    hollow.__dict__["_compiled_call_impl"] = None
    hollow.__dict__["training"] = False
    return hollow


def _own(value: Any, module: nn.Module, hollow: nn.Module) -> Any:
    """An attribute for the copy of a module."""
    if type(value) in _CONTAINERS:  # where a model may collect something
        return _own_container(value, {})
    if isinstance(value, types.MethodType) and value.__self__ is module:  # a `forward` that was chosen by options
        return types.MethodType(value.__func__, hollow)
    return value


_CONTAINERS = (list, dict, set, collections.deque, collections.defaultdict, collections.OrderedDict)
"""Others may not let themselves be copied or changed."""


def _own_container(value: Any, made: dict[int, Any]) -> Any:
    """A container anew, with all containers in it, around the same things.

    Args:
        made: what was made of containers so far, by their identity: one may hold itself.
    """
    if type(value) not in (*_CONTAINERS, tuple):
        return value
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, tuple):
        parts = [_own_container(part, made) for part in value]
        return value if all(map(operator.is_, parts, value)) else tuple(parts)
    result = made[id(value)] = copy.copy(value)
    if isinstance(result, dict):
        for key, part in result.items():
            result[key] = _own_container(part, made)
    elif isinstance(result, (list, collections.deque)):
        for index, part in enumerate(result):
            result[index] = _own_container(part, made)
    return result


def hides_modules(module: nn.Module) -> bool:
    """Whether a module keeps others where PyTorch does not see them: a copy of it would have them with old weights.

    They may lie in containers, in objects of any other kind, and in functions: bound, partial, or closed over them.
    """
    seen: set[int] = set()
    own = (value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE)
    # A method of its own is bound to the copy.
    waiting = [value for value in own if not (isinstance(value, types.MethodType) and value.__self__ is module)]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        if isinstance(value, nn.Module):
            return True
        seen.add(id(value))
        waiting.extend(_held_by(value))
    return False


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (str, bytes, int, float, complex, type(None), type, types.ModuleType, torch.Tensor, torch.dtype, torch.device)


def _held_by(value: Any) -> Iterable[Any]:
    """What a container, a function or an object refers to."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (*_CONTAINERS, tuple, frozenset)):
        return value
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    return [*getattr(value, "__dict__", {}).values(), getattr(value, "__self__", None)]


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is not bound yet
        return False


@contextlib.contextmanager
def spare_buffers(copies: Mapping[int, nn.Module]) -> Iterator[None]:
    """Gives the copies buffers of their own for a block: what a model does to them happens there, also in a trace."""
    kept = [(module, module._buffers) for module in copies.values() if not isinstance(module, torch.jit.ScriptModule)]
    try:
        for module, buffers in kept:
            module._buffers = {name: None if t is None else t.clone() for name, t in buffers.items()}
        yield
    finally:
        for module, buffers in kept:
            module._buffers = buffers
