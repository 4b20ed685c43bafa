"""What may be wrapped around a model: compiled code, data parallelism."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn


def plain_module(model: Any) -> nn.Module:
    """The module that hooks can see into: without the wrappers of torch.compile and of data parallelism.

    Raises:
        TypeError: not a module, or one that was scripted or traced.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif _is_compile_wrapper(model):
            model = model._orig_mod
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model is a torch.jit.ScriptModule, which hooks cannot see into; give the module it was made from"
        )
    return require_module(model)


def require_module(model: Any) -> nn.Module:
    """A model, if it is a module.

    Raises:
        TypeError: it is none, such as a :class:`camfast.LoadedModel`, which has one.
    """
    if isinstance(model, nn.Module):
        return model
    remedy = "; give its .module" if isinstance(getattr(model, "module", None), nn.Module) else ""
    raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module{remedy}")


def _is_compile_wrapper(module: Any) -> bool:
    dynamo = sys.modules.get("torch._dynamo")  # takes seconds to import, and nothing is compiled before it is
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


_lock = threading.Lock()
_blocks = 0
_stance: Any = None


@contextlib.contextmanager
def running_eagerly(modules: Sequence[nn.Module]) -> Iterator[None]:
    """No compiled code in a model's modules for the length of a block: it does not see hooks that came after it.

    The switch is one for the whole process. Blocks of several threads may overlap: the first one in turns it, the last
    one out turns it back.
    """
    global _blocks, _stance
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None or not any(m._compiled_call_impl is not None or _is_compile_wrapper(m) for m in modules):
        yield
        return
    with _lock:
        if _blocks == 0:
            _stance = torch.compiler.set_stance("force_eager")
            _stance.__enter__()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _stance.__exit__(None, None, None)
