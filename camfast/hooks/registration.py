"""Hooks on modules for the length of a block, of one thread alone."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

ForwardHook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


@contextmanager
def forward_hooks(
    modules: Iterable[nn.Module],
    make_hook: Callable[[int], ForwardHook],
    *,
    before: bool = False,
    recomputed: bool = False,
) -> Iterator[None]:
    """Forward hooks for the length of a block, for this thread's forward passes only.

    ``make_hook(i)`` gives the hook of the i-th module. Another thread that runs the same model meanwhile does not
    reach them. Every handle is removed when the block ends, however it ends.

    Args:
        before: call the hooks before their modules run, with the arguments by keyword in place of the output; what
            they return replaces the arguments by position.
        recomputed: also call them where autograd's own threads, which a CUDA device has, run a module again for
            gradient checkpointing.
    """
    owner = threading.get_ident()
    handles: list[RemovableHandle] = []

    def only_here(hook: ForwardHook) -> ForwardHook:
        def guarded(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if threading.get_ident() == owner or (recomputed and is_recomputing() and _is_autograds_thread()):
                return hook(module, args, output)
            return None

        return guarded

    try:
        for index, module in enumerate(modules):
            hook = only_here(make_hook(index))
            if before:
                before_hook = functools.partial(_before, hook)
                handles.append(module.register_forward_pre_hook(before_hook, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(hook: ForwardHook, module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    replaced = hook(module, args, options)
    return None if replaced is None else (replaced, options)


def is_recomputing() -> bool:
    """Whether this runs within a backward pass: a module that does is run again, by gradient checkpointing."""
    return torch._C._current_graph_task_id() != -1


def _is_autograds_thread() -> bool:
    # Threads that Python did not start are dummies to it.
    return isinstance(threading.current_thread(), threading._DummyThread)
