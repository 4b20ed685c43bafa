"""The modules of a model anew, around the same parameters and buffers: for what may be written there."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping
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
    copy = object.__new__(type(module))
    copies[id(module)] = copy
    copy.__dict__ = {name: _own(value, module, copy) for name, value in vars(module).items()}
    for kept in ("_parameters", "_buffers"):
        copy.__dict__[kept] = dict(vars(module)[kept])
    for emptied in _HOOKS:
        if emptied in copy.__dict__:
            copy.__dict__[emptied] = type(vars(module)[emptied])()
    copy.__dict__["_modules"] = {
        name: child if child is None else hollow_copy(child, copies) for name, child in vars(module)["_modules"].items()
    }
    copy.__dict__["_compiled_call_impl"] = None
    copy.__dict__["training"] = False
    return copy


def _own(value: Any, module: nn.Module, copy: nn.Module) -> Any:
    """An attribute for the copy of a module."""
    if type(value) in (list, dict, set):  # where a model may collect something
        return type(value)(value)
    if isinstance(value, types.MethodType) and value.__self__ is module:  # a `forward` that was chosen by options
        return types.MethodType(value.__func__, copy)
    return value


def hides_modules(module: nn.Module) -> bool:
    """Whether a module keeps others where PyTorch does not see them: a copy of it would have them with old weights."""
    for name, value in vars(module).items():
        if name in ("_modules", "_parameters", "_buffers"):
            continue
        parts = value.values() if isinstance(value, dict) else value
        for part in parts if isinstance(value, (dict, list, tuple, set)) else [value]:
            owner = getattr(part, "__self__", part)  # of a method
            if isinstance(owner, nn.Module) and owner is not module:
                return True
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
