"""The passes through a model: forward without a graph up to the target layer, with one after it, and back to there.

Everything here leaves the model as it was, also when the model raises: hooks, training flags, ``requires_grad``,
parameter gradients, BatchNorm statistics and grad mode.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camfast.hooks import forward_hooks, require_tensor
from camfast.wrappers import running_eagerly


@dataclass(frozen=True)
class ForwardPass:
    """Activations by layer name, and the output of the model."""

    activations: dict[str, Tensor]
    output: Tensor


@dataclass(frozen=True)
class GradientPass:
    """Activations and gradients by layer name; the output; what the score function returned beside the scores."""

    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]
    output: Tensor
    targets: Tensor | None
    graph_before_layer: bool
    """Whether the model had to build a graph before the layer, too."""


def forward(
    model: nn.Module, layers: Mapping[str, nn.Module], x: Tensor, select: Callable[[Any], Tensor]
) -> ForwardPass:
    """One forward pass without any graph."""
    with prepared(model, x) as ready, torch.no_grad():
        seen = _Seen(layers, cut=False)
        with forward_hooks(layers.values(), seen.hook):
            output = select(model(ready))
        return ForwardPass(seen.all(), output)


def forward_and_gradient(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    x: Tensor,
    select: Callable[[Any], Tensor],
    score: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    graph_before_layer: bool = False,
) -> GradientPass:
    """One forward and one truncated backward pass.

    The gradient is that of the summed scores, so the samples of a batch must not influence each other (as in
    evaluation mode). A layer that runs several times counts with its last run.

    A model may hold its layers inside its own no_grad block (a frozen backbone). Leaving that block brings back the
    grad mode from before it, which must then be on from the start: such a model runs a second time, with a graph
    before the layer too. ``graph_before_layer`` of the result says so, and spares the first try when given again.

    Args:
        select: takes the output tensor from whatever the model returns.
        score: maps the output to scores [N] and to the classes, if there are any.
        graph_before_layer: let the model build a graph from its input on.

    Raises:
        ValueError: a layer did not run, the score does not depend on it, or the model was made in inference mode.
    """
    _check_parameters(model)
    with prepared(model, x) as ready:
        version = ready._version
        result = None
        if not graph_before_layer:
            result = _truncated(model, layers, ready, select, score, graph_before_layer=False)
        if result is None:
            if ready._version != version:
                raise ValueError("the model changes its input in place and holds the target layer in a no_grad block")
            result = _truncated(model, layers, ready, select, score, graph_before_layer=True)
    assert result is not None  # only a pass without a graph before the layer asks for another
    return result


def _truncated(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    x: Tensor,
    select: Callable[[Any], Tensor],
    score: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    graph_before_layer: bool,
) -> GradientPass | None:
    """One attempt; None where the model itself switched grad mode off after the layer had switched it on."""
    with torch.set_grad_enabled(graph_before_layer):
        seen = _Seen(layers, cut=True)
        with forward_hooks(layers.values(), seen.hook):
            output = select(model(x))
            switched_off = not torch.is_grad_enabled()
        activations = seen.all()
        if switched_off and not graph_before_layer:
            return None
        with torch.enable_grad():
            scores, targets = score(output)
        inputs = list(activations.values())
        ones = torch.ones_like(scores)
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if scores.requires_grad:
            found = torch.autograd.grad(scores, inputs, grad_outputs=ones, allow_unused=True)
    gradients = {}
    for name, gradient in zip(activations, found, strict=True):
        if gradient is None:
            raise ValueError(f"the score does not depend on layer {name!r}: no gradient flows back to it")
        gradients[name] = gradient
    return GradientPass(
        {name: activation.detach() for name, activation in activations.items()},
        gradients,
        output.detach(),
        targets,
        graph_before_layer,
    )


def _check_parameters(model: nn.Module) -> None:
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "the model was made under torch.inference_mode(), so autograd cannot use its parameters; "
            "make or load it outside"
        )


class _Seen:
    """Hooks that remember what layers put out and, where asked to, start the graph there."""

    def __init__(self, layers: Mapping[str, nn.Module], cut: bool) -> None:
        self._names = list(layers)
        self._cut = cut
        self._activations: dict[str, Tensor] = {}

    def hook(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor]:
        name = self._names[index]

        def remember(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
            activation = require_tensor(name, output)
            # What is kept must be out of reach of in-place operations on what goes on through the model: on the
            # output, and also on the input where the layer passes that on.
            if any(isinstance(arg, Tensor) and _same_memory(arg, activation) for arg in args):
                activation = activation.clone()
            if not self._cut:
                self._activations[name] = activation
                return activation.clone()
            if not activation.requires_grad:
                activation = activation.detach().requires_grad_()
            # Also where an earlier target layer, or the model, has begun a graph: that one goes on through here.
            torch.set_grad_enabled(True)
            self._activations[name] = activation
            return activation.clone()

        return remember

    def all(self) -> dict[str, Tensor]:
        """By name, in the order of the layers."""
        for name in self._names:
            if name not in self._activations:
                raise ValueError(f"target layer {name!r} did not run in the forward pass; choose one that does")
        return {name: self._activations[name] for name in self._names}


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@contextlib.contextmanager
def prepared(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Evaluation mode, no inference mode, no compiled code for a block; gives an input that autograd may meet."""
    with torch.inference_mode(False), _evaluating(model), running_eagerly(model):
        yield x.clone() if x.is_inference() else x


_lock = threading.Lock()
_switched: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""Modules that were in training mode, and how many blocks need them not to be."""


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a block; afterwards every module has the mode that it had.

    Blocks of several threads may overlap on a model or on parts of it: the last one out switches a module back.
    """
    with _lock:
        held = [module for module in model.modules() if module.training or module in _switched]
        for module in held:
            module.training = False  # not .eval(), which a model may have overridden
            _switched[module] = _switched.get(module, 0) + 1
    try:
        yield
    finally:
        with _lock:
            for module in held:
                _switched[module] -= 1
                if _switched[module] == 0:
                    del _switched[module]
                    module.training = True
