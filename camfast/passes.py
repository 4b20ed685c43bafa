"""The passes through a model: forward without a graph up to the target layer, with one after it, and back to there.

Everything here leaves the model as it was, also when the model raises: hooks, training flags, ``requires_grad``,
parameter gradients, BatchNorm statistics and grad mode.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camfast.hooks import forward_hooks, require_tensor


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


class NoPathError(ValueError):
    """The scores do not depend on the target layer, as far as autograd can see."""


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
) -> GradientPass:
    """One forward and one truncated backward pass.

    The gradient is that of the summed scores, so the samples of a batch must not influence each other (as in
    evaluation mode). A layer that runs several times counts with its last run.

    Args:
        select: takes the output tensor from whatever the model returns.
        score: maps the output to scores [N] and to the classes, if there are any.

    Raises:
        ValueError: a layer did not run, or the score does not depend on it.
    """
    with prepared(model, x) as ready:
        version = ready._version
        try:
            return _truncated(model, layers, ready, select, score, graph_before_layer=False)
        except NoPathError:
            if ready._version != version:  # changed in place: a second pass would explain something else
                raise
            # A model may hold its layers inside its own no_grad block (a frozen backbone). Leaving that block brings
            # back the grad mode from before it, which must then be on from the start.
            return _truncated(model, layers, ready, select, score, graph_before_layer=True)


def _truncated(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    x: Tensor,
    select: Callable[[Any], Tensor],
    score: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    graph_before_layer: bool,
) -> GradientPass:
    with torch.set_grad_enabled(graph_before_layer):
        seen = _Seen(layers, cut=True)
        with forward_hooks(layers.values(), seen.hook):
            output = select(model(x))
        activations = seen.all()
        with torch.enable_grad():
            scores, targets = score(output)
        if not scores.requires_grad:
            raise NoPathError(
                f"the score does not depend on layer {next(iter(layers))!r}: no gradient flows back to it"
            )
        gradients = torch.autograd.grad(
            scores, list(activations.values()), grad_outputs=torch.ones_like(scores), allow_unused=True
        )
    for name, gradient in zip(activations, gradients, strict=True):
        if gradient is None:
            raise NoPathError(f"the score does not depend on layer {name!r}: no gradient flows back to it")
    return GradientPass(
        {name: activation.detach() for name, activation in activations.items()},
        dict(zip(activations, gradients, strict=True)),
        output.detach(),
        targets,
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
            if not self._cut:
                self._activations[name] = activation
                return activation.clone()  # an in-place operation after the layer must not reach what is kept
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


@contextlib.contextmanager
def prepared(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Evaluation mode, no inference mode, no compiled code for a block; gives an input that autograd may meet."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_evaluating(model))
        if any(module._compiled_call_impl is not None for module in model.modules()):
            # Compiled code does not see hooks that came after it.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield x.clone() if x.is_inference() else x


_lock = threading.Lock()
_switched: weakref.WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a block; afterwards every module has the mode that it had.

    Blocks of several threads may overlap on one model: the first one in switches, the last one out switches back.
    """
    with _lock:
        blocks, switched = _switched.get(model, (0, []))
        if blocks == 0:
            switched = [module for module in model.modules() if module.training]
            for module in switched:
                module.training = False  # not .eval(), which a model may have overridden
        _switched[model] = (blocks + 1, switched)
    try:
        yield
    finally:
        with _lock:
            blocks, switched = _switched.pop(model)
            if blocks > 1:
                _switched[model] = (blocks - 1, switched)
            else:
                for module in switched:
                    module.training = True
