"""Plain callbacks at layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from camfast.hooks.checks import check_function, require_tensors
from camfast.hooks.registration import ForwardHook, is_recomputing
from camfast.hooks.selection import layer_hooks
from camfast.hooks.tensor_hooks import tensor_hooks
from camfast.layers import Layers


@contextmanager
def on_forward(
    model: nn.Module, layers: Layers, callback: Callable[[str, nn.Module, tuple[Any, ...], Any], object]
) -> Iterator[None]:
    """Call a function whenever a layer has run, for the length of a block.

    >>> def show(name, module, inputs, output):
    ...     print(name, tuple(output.shape))
    >>> with camfast.on_forward(model, "layer*", show):  # doctest: +SKIP
    ...     model(x)

    As a decorator, of a function during whose calls the callback is on; it removes the hooks when the call ends:

    >>> @camfast.on_forward(model, "layer*", show)  # doctest: +SKIP
    ... def validate(batch):
    ...     return model(batch)

    Passes of other threads do not call it, nor does what gradient checkpointing runs again.

    Args:
        layers: as for :func:`camfast.capture`.
        callback: gets the layer's name, the module, its inputs by position, and its output. What it returns is ignored:
            :func:`camfast.edit_activations` changes outputs.

    Raises:
        ValueError, TypeError: as :func:`camfast.capture`, but that a layer may put out anything. What ``callback``
            raises arrives unchanged.
    """
    check_function("callback", callback, "of (name, module, inputs, output)")

    def make_hook(name: str) -> ForwardHook:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not is_recomputing():
                callback(name, module, args, output)

        return hook

    with layer_hooks(model, layers, make_hook):
        yield


@contextmanager
def on_backward(
    model: nn.Module, layers: Layers, callback: Callable[[str, nn.Module, Tensor], object]
) -> Iterator[None]:
    """Call a function whenever the gradient with respect to what a layer put out is known, for the length of a block.

    >>> def show(name, module, gradient):
    ...     print(name, gradient.norm())
    >>> with camfast.on_backward(model, "layer*", show):  # doctest: +SKIP
    ...     loss(model(x), y).backward()

    Both passes have to be in the block, the forward pass in the thread that opened it; layers answer in the order of
    the backward pass. It is a decorator too, as :func:`on_forward` is. In-place operations after a layer are no matter.
    Where nothing asks for a gradient (frozen models, ``no_grad``), nothing is called.

    The gradient is the full one. PyTorch's deprecated ``register_backward_hook`` is a partial one: it takes the last
    operation of a module for the whole module. For ``forward(x) = (x * 3) * 2`` it reports a gradient of 2 with respect
    to the input, that of the last product, where it is 6::

        net = nn.Sequential(Before(), Times3Times2())    # y = 6 z, z = what Before puts out
        with camfast.on_backward(net, ["0", "1"], show): # "1" has 1, and "0" has 6
            net(x).sum().backward()

    Args:
        layers: as for :func:`camfast.capture`.
        callback: gets the layer's name, the module, and the gradient, which it must not change in place. What it
            returns is ignored: :func:`camfast.edit_gradients` changes gradients. For a layer that puts out several
            tensors, it is called for each.

    Raises:
        ValueError, TypeError: as :func:`camfast.capture`. What ``callback`` raises arrives unchanged.
    """
    check_function("callback", callback, "of (name, module, gradient)")
    with tensor_hooks() as hooks:

        def make_hook(name: str) -> ForwardHook:
            def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
                def call(gradient: Tensor) -> None:
                    callback(name, module, gradient)

                return hooks.watch(require_tensors(name, output), module, args, call)

            return hook

        with layer_hooks(model, layers, make_hook):
            yield
