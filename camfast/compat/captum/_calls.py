"""What captum's methods are given, as camfast's passes take it: a module, a batch, a layer by name."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from camfast.inputs import Batch
from camfast.layers import resolve_layers
from camfast.passes import evaluating
from camfast.structure import modules_of
from camfast.wrappers import plain_module, running_eagerly


def as_module(forward_func: Callable[..., Any]) -> nn.Module:
    """A model as it is, without its wrappers; any other function as a module that calls it."""
    if isinstance(forward_func, nn.Module):
        return plain_module(forward_func)
    return Function(forward_func)


class Function(nn.Module):
    """A function that calls a model, which nobody knows before it does.

    The modules that it calls are in evaluation mode from then on, until the function returns.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        owner = getattr(function, "__self__", None)
        if isinstance(owner, nn.Module):  # a method, which calls the model's parts, but not the model
            self.owner = owner

    def forward(self, *inputs: Any) -> Any:
        """What the function makes of the inputs."""
        thread, met = threading.get_ident(), set[nn.Module]()
        with contextlib.ExitStack() as stack:

            def prepare(module: nn.Module, _: Any) -> None:
                if threading.get_ident() == thread and module not in met:
                    modules = modules_of(module)
                    met.update(modules)
                    stack.enter_context(evaluating(modules))
                    stack.enter_context(running_eagerly(modules))

            stack.callback(register_module_forward_pre_hook(prepare).remove)
            return self.function(*inputs)


def named(model: nn.Module, layer: nn.Module | str) -> dict[str, nn.Module]:
    """The layer by its name; by that of its class where it is no registered part of the model.

    Raises:
        ValueError: the model has no layer of that name.
    """
    names: Mapping[int, str] = {id(module): name for name, module in model.named_modules()}
    if isinstance(layer, str) or id(layer) in names:
        return resolve_layers(model, layer)
    return {type(layer).__name__: layer}


def as_tuple(inputs: Any) -> tuple[Tensor, ...]:
    """One input or several, as a tuple.

    Raises:
        TypeError: an input is no tensor.
        ValueError: there is none.
    """
    if isinstance(inputs, Tensor):
        return (inputs,)
    if not isinstance(inputs, (tuple, list)):
        raise TypeError(f"inputs is a {type(inputs).__name__}; expected a tensor, or a tuple of tensors")
    for i, each in enumerate(inputs):
        if not isinstance(each, Tensor):
            raise TypeError(
                f"inputs[{i}] is a {type(each).__name__}; expected a tensor: give all else as additional_forward_args"
            )
    if not inputs:
        raise ValueError("inputs is empty; expected a tensor, or a tuple of tensors")
    return tuple(inputs)


def as_batch(inputs: tuple[Tensor, ...], additional_forward_args: Any) -> Batch:
    """The inputs, and after them what is not explained: a tuple, or one thing."""
    if additional_forward_args is None:
        return Batch(inputs, (), 0)
    others = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    return Batch((*inputs, *others), (), 0)


def finite_samples(tensor: Tensor) -> Tensor:
    """A mask [N, 1, …] over samples: whether all of a sample is finite."""
    mask = tensor.detach().flatten(1).isfinite().all(1)
    return mask.reshape(-1, *[1] * (tensor.dim() - 1))
