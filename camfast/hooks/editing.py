"""Changing what layers put out, and the gradients that come back to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from camfast.hooks.checks import check_function, require_tensors
from camfast.hooks.edits import Edit
from camfast.hooks.registration import ForwardHook
from camfast.hooks.selection import layer_hooks
from camfast.hooks.tensor_hooks import tensor_hooks
from camfast.layers import Layers
from camfast.trees import mapped


@contextmanager
def edit_activations(model: nn.Module, layers: Layers, fn: Edit) -> Iterator[None]:
    """Replace what layers put out, for the length of a block.

    >>> with camfast.edit_activations(model, "layer3", camfast.hooks.mask([7, 12])):  # doctest: +SKIP
    ...     logits = model(x)

    Passes of other threads are not edited. Where gradient checkpointing runs a layer again in a backward pass, it is
    edited again, and has to become the same.

    Args:
        layers: as for :func:`camfast.capture`.
        fn: gets a copy of what a layer put out, in every run of it, and returns what goes on in its place: a tensor of
            the same shape, dtype and device. Of a layer that puts out several tensors, it gets one after the other.
            See ``camfast.hooks`` for ready-made ones: ``mask``, ``scale``, ``add_noise``, ``clip``, ``clip_norm``.

    Raises:
        ValueError, TypeError: as :func:`camfast.capture`; an edit that returns another shape, dtype or device, or
            something else than a tensor. What ``fn`` raises arrives unchanged.
    """
    check_function("fn", fn, "of one tensor, such as camfast.hooks.scale(0.5)")

    def make_hook(name: str) -> ForwardHook:
        edit = _checked(fn, f"fn of edit_activations, at layer {name!r},")

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return mapped(edit, require_tensors(name, output))

        return hook

    with layer_hooks(model, layers, make_hook):
        yield


@contextmanager
def edit_gradients(model: nn.Module, layers: Layers, fn: Edit) -> Iterator[None]:
    """Replace the gradients with respect to what layers put out, for the length of a block: what comes before a layer,
    and its own weights, get the gradients that follow from those.

    >>> with camfast.edit_gradients(model, "layer4", camfast.hooks.clip_norm(1.0)):  # doctest: +SKIP
    ...     loss(model(x), y).backward()

    Both passes have to be in the block, the forward pass in the thread that opened it. In-place operations after a
    layer are no matter. Where nothing asks for a gradient (frozen models, ``no_grad``), there is none to edit.

    Args:
        layers, fn: as for :func:`edit_activations`, with gradients in place of what a layer put out.

    Raises:
        ValueError, TypeError: as :func:`edit_activations`.
    """
    check_function("fn", fn, "of one tensor, such as camfast.hooks.scale(0.5)")
    with tensor_hooks() as hooks:

        def make_hook(name: str) -> ForwardHook:
            edit = _checked(fn, f"fn of edit_gradients, at layer {name!r},")

            def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
                return hooks.watch(require_tensors(name, output), module, args, edit)

            return hook

        with layer_hooks(model, layers, make_hook):
            yield


def _checked(fn: Edit, whose: str) -> Edit:
    def edit(tensor: Tensor) -> Tensor:
        edited = fn(tensor.clone())  # a copy: it may be changed in place
        if not isinstance(edited, Tensor):
            found = "None" if edited is None else f"a {type(edited).__name__}"
            raise TypeError(f"{whose} returned {found}; expected the edited tensor, {_form(tensor)}")
        if (edited.shape, edited.dtype, edited.device) != (tensor.shape, tensor.dtype, tensor.device):
            raise ValueError(f"{whose} returned {_form(edited)}; expected {_form(tensor)}")
        return edited

    return edit


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"
