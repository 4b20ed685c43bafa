"""Hooks on tensors: how the gradient at what a layer put out is reached.

Hooks on modules (``register_full_backward_hook``) forbid in-place operations after the layer, and the deprecated
partial ones (``register_backward_hook``) take the last operation of a module for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from camfast.trees import mapped

GradientHook = Callable[[Tensor], Tensor | None]


class TensorHooks:
    """Hooks on tensors of passing graphs; those of graphs that are gone are forgotten on the way."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._room = 64

    def add(self, tensor: Tensor, hook: GradientHook) -> None:
        """Calls a hook with the gradient at a tensor as it is now, whatever is done in place to it afterwards."""
        if len(self._handles) >= self._room:
            self._handles = [handle for handle in self._handles if handle.hooks_dict_ref() is not None]
            self._room = max(64, 2 * len(self._handles))
        self._handles.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def watch(self, output: Any, module: nn.Module, args: tuple[Any, ...], hook: GradientHook) -> Any:
        """Calls a hook with the gradient at every tensor of what a layer put out that has one; returns what goes on."""

        def watched(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            tensor = own_tensor(tensor, module, args)
            self.add(tensor, hook)
            return tensor

        return mapped(watched, output)

    def remove(self) -> None:
        """Removes them all."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


@contextmanager
def tensor_hooks() -> Iterator[TensorHooks]:
    """Hooks on tensors for the length of a block."""
    hooks = TensorHooks()
    try:
        yield hooks
    finally:
        hooks.remove()


def own_tensor(tensor: Tensor, module: nn.Module, args: tuple[Any, ...]) -> Tensor:
    """What a layer put out, as a tensor whose gradient is that of this output alone; it has to go on in its place.

    It is a copy where autograd would lose a view to an in-place operation, and where the tensor is also something else:
    a parameter, or what the layer was given, whose gradient has more in it.
    """
    # A layer that works in place puts out what it was given, changed; its output may be ignored.
    passed_on = any(arg is tensor for arg in args) and not getattr(module, "inplace", False)
    return tensor.clone() if passed_on or tensor.is_leaf or tensor._is_view() else tensor
