"""Look at what layers put out, and at the gradients that come back, without leaving a hook behind."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from camfast.layers import resolve_layers
from camfast.trees import tensors_in

ForwardHook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


@contextmanager
def forward_hooks(
    modules: Iterable[nn.Module], make_hook: Callable[[int], ForwardHook], *, before: bool = False
) -> Iterator[None]:
    """Forward hooks for the length of a block, for this thread's forward passes only.

    ``make_hook(i)`` gives the hook of the i-th module. Another thread that runs the same model meanwhile does not
    reach them. Every handle is removed when the block ends, however it ends.

    Args:
        before: call the hooks before their modules run, with the arguments by position in place of the output.
    """
    owner = threading.get_ident()
    handles: list[RemovableHandle] = []

    def only_here(hook: ForwardHook) -> ForwardHook:
        def guarded(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return hook(module, args, output) if threading.get_ident() == owner else None

        return guarded

    try:
        for index, module in enumerate(modules):
            hook = only_here(make_hook(index))
            if before:
                handles.append(module.register_forward_pre_hook(functools.partial(_before, hook)))
            else:
                handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(hook: ForwardHook, module: nn.Module, args: tuple[Any, ...]) -> Any:
    return hook(module, args, args)


@dataclass(frozen=True)
class Capture:
    """What :func:`capture` saw, by layer name. A layer that runs several times keeps its last run."""

    activations: dict[str, Tensor] = field(default_factory=dict)
    """What each layer put out, detached; there after a forward pass."""
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """The gradient with respect to what each layer put out; there after a backward pass."""

    def __repr__(self) -> str:
        lines = [f"Capture of {len(self.activations)} layers"]
        for name, activation in self.activations.items():
            gradient = "with gradient" if name in self.gradients else "no gradient"
            lines.append(f"  {name}: {list(activation.shape)} {activation.dtype}, {gradient}")
        return "\n".join(lines)


@contextmanager
def capture(
    model: nn.Module,
    layers: nn.Module | str | Sequence[nn.Module | str],
    gradients: bool = True,
) -> Iterator[Capture]:
    """Capture activations, and the gradients of a backward pass, of some layers.

    Safe against in-place operations after a layer (an in-place ReLU, say): what is captured is what the layer put
    out, and the gradient is the one with respect to that. The hooks are gone when the block ends.

    >>> with camfast.capture(model, ["layer1", "layer4"]) as seen:  # doctest: +SKIP
    ...     model(x)[:, 281].sum().backward()
    >>> seen.activations["layer4"].shape, seen.gradients["layer4"].shape  # doctest: +SKIP
    (torch.Size([1, 512, 7, 7]), torch.Size([1, 512, 7, 7]))

    Args:
        model: any module; its parameters, mode and outputs are left as they are.
        layers: a module or its dotted name, or several of them.
        gradients: also record gradients; needs a forward pass with grad mode on.

    Raises:
        ValueError: a layer is not in the model; the message has the closest names.
        TypeError: a layer puts out something other than a tensor.
    """
    named = resolve_layers(model, layers)
    names = list(named)
    seen = Capture()
    waiting: dict[str, RemovableHandle] = {}

    def make_hook(index: int) -> ForwardHook:
        name = names[index]

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if torch._C._current_graph_task_id() != -1:  # recomputed in a backward pass, by gradient checkpointing
                return
            tensor = require_tensor(name, output)
            seen.activations[name] = tensor.detach().clone()
            if gradients and tensor.requires_grad:
                if name in waiting:  # an earlier run, whose gradient would arrive later
                    waiting[name].remove()
                # A hook on the tensor, not on the module: module backward hooks forbid in-place operations.
                waiting[name] = tensor.register_hook(  # type: ignore[no-untyped-call]
                    lambda grad: seen.gradients.__setitem__(name, grad.detach())
                )

        return hook

    try:
        with forward_hooks(named.values(), make_hook):
            yield seen
    finally:
        for handle in waiting.values():
            handle.remove()


def require_tensor(name: str, output: Any, does: str = "puts out") -> Tensor:
    """A layer's output, or what it ``does`` otherwise, if it is a floating tensor.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        found = f"a {output.dtype} tensor" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise TypeError(
            f"layer {name!r} {does} {found}; choose a layer that {does} one floating tensor, or, for an "
            "explanation, give a reshape_transform that makes one of it"
        )
    return output


def require_tensors(name: str, output: Any, does: str = "puts out") -> Any:
    """A layer's output, or what it ``does`` otherwise, if there is a floating tensor in it.

    Raises:
        TypeError: there is none.
    """
    return output if tensors_in(output) else require_tensor(name, output, does)
