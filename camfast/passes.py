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

from camfast.errors import is_out_of_memory
from camfast.hooks import forward_hooks, require_tensors
from camfast.inputs import Batch, normal_tensors
from camfast.structure import modules_of
from camfast.trees import mapped, tensors_in, with_tensors
from camfast.wrappers import running_eagerly

Select = Callable[[Any], Tensor]
"""Takes the output tensor from whatever a model returns."""


@dataclass(frozen=True)
class ForwardPass:
    """Activations by layer name, and the output of the model.

    Of a layer that puts out several tensors (a tuple, a dict), the activations are the like, and so are the gradients.
    """

    activations: dict[str, Tensor]
    output: Tensor

    def first(self, samples: int) -> ForwardPass:
        """That of the first samples."""
        if samples == len(self.output):
            return self
        return ForwardPass({name: t[:samples] for name, t in self.activations.items()}, self.output[:samples])


@dataclass(frozen=True)
class GradientPass:
    """Activations by layer name, the gradients of the scores there, the output, and the targets."""

    activations: dict[str, Tensor]
    gradients: dict[str, Tensor]
    """By layer name; with a dimension K after the first where K classes are explained. Empty where ``mean`` is."""
    mean: Tensor | None
    """[N, C] or [N, K, C]: the gradient, where there is one layer and it is the same at all positions of it."""
    output: Tensor
    targets: Tensor | None

    def first(self, samples: int) -> GradientPass:
        """That of the first samples."""
        if samples == len(self.output):
            return self
        return GradientPass(
            {name: tensor[:samples] for name, tensor in self.activations.items()},
            {name: tensor[:samples] for name, tensor in self.gradients.items()},
            None if self.mean is None else self.mean[:samples],
            self.output[:samples],
            None if self.targets is None else self.targets[:samples],
        )


def forward(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, select: Select, *, kept: bool = False
) -> ForwardPass:
    """One forward pass without any graph.

    Args:
        kept: whether the model is known to leave what the layers put out as it is; otherwise that is copied.
    """
    with prepared(model), torch.no_grad():
        seen = Seen(layers, cut=False, copied=not kept)
        with forward_hooks(layers.values(), seen.hook):
            output = select(normal_tensors(batch).call(model))
        return ForwardPass(seen.all(), output)


def forward_and_gradient(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batch: Batch,
    select: Select,
    score: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    graph_before_layer: bool = False,
    *,
    at_inputs: bool = False,
) -> tuple[GradientPass, bool]:
    """One forward and one truncated backward pass.

    The gradient is that of the summed scores, so the samples of a batch must not influence each other (as in
    evaluation mode). A layer that runs several times counts with its last run.

    A model may hold its layers inside its own no_grad block (a frozen backbone). Leaving that block brings back the
    grad mode from before it, which must then be on from the start: such a model runs a second time, with a graph
    before the layer too. The second result says so, and spares the first try when given again.

    Args:
        score: maps the output to scores, [N] or [N, K], and to the classes, if there are any.
        graph_before_layer: let the model build a graph from its input on.
        at_inputs: take as activations of a layer its arguments by position, a tuple, in place of what it puts out.

    Raises:
        ValueError: a layer did not run, the score does not depend on it, the model was made in inference mode, or it
            holds the layer in a reentrant checkpoint.
    """
    check_parameters(model)
    with prepared(model):
        ready = normal_tensors(batch)
        versions = [tensor._version for tensor in ready.tensors]
        if not graph_before_layer:
            result = _truncated(model, layers, ready, select, score, False, at_inputs)
            if result is not None:
                return result, False
            if [tensor._version for tensor in ready.tensors] != versions:
                raise ValueError("the model changes its input in place and holds the target layer in a no_grad block")
        result = _truncated(model, layers, ready, select, score, True, at_inputs)
    assert result is not None  # only a pass without a graph before the layer asks for another
    return result, True


def _truncated(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batch: Batch,
    select: Select,
    score: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    graph_before_layer: bool,
    at_inputs: bool,
) -> GradientPass | None:
    """One attempt; None where the model itself switched grad mode off after the layer had switched it on."""
    with torch.set_grad_enabled(graph_before_layer):
        seen = Seen(layers, cut=True, copied=True)
        with seen.hooked(at_inputs):
            output = select(batch.call(model))
            switched_off = not torch.is_grad_enabled()
            activations = seen.all()
            if switched_off and not graph_before_layer:
                return None
            with torch.enable_grad():
                scores, targets = score(output)
            found = gradients_at(scores, activations)
    lost = [name for name, gradient in zip(activations, found, strict=True) if gradient is None]
    if graph_before_layer and seen.without_grad.intersection(lost):
        raise ValueError(
            f"no gradient flows back to layer {lost[0]!r}, which the model runs with grad mode off: under its own "
            "inference_mode, or inside a reentrant checkpoint; there, use checkpoint(..., use_reentrant=False)"
        )
    gradients = by_name(activations, found)
    detached = {name: mapped(torch.Tensor.detach, activation) for name, activation in activations.items()}
    return GradientPass(detached, gradients, None, output.detach(), targets)


def gradients_at(scores: Tensor, activations: Mapping[str, Any]) -> list[Any]:
    """The gradients at each layer, in the form of its activations; None where the scores do not depend on it."""
    inside = [tensors_in(activation) for activation in activations.values()]
    found = iter(gradients_of(scores, [tensor for tensors in inside for tensor in tensors]))
    gradients: list[Any] = []
    for activation, tensors in zip(activations.values(), inside, strict=True):
        own = [next(found) for _ in tensors]
        if all(gradient is None for gradient in own):
            gradients.append(None)
            continue
        classes = scores.shape[1:]
        filled = (
            tensor.new_zeros((len(tensor), *classes, *tensor.shape[1:])) if gradient is None else gradient
            for tensor, gradient in zip(tensors, own, strict=True)
        )
        gradients.append(with_tensors(activation, filled))
    return gradients


def by_name(activations: Mapping[str, Tensor], found: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Gradients by layer name.

    Raises:
        ValueError: there is none for a layer.
    """
    gradients = {}
    for name, gradient in zip(activations, found, strict=True):
        if gradient is None:
            raise ValueError(f"the score does not depend on layer {name!r}: no gradient flows back to it")
        gradients[name] = gradient
    return gradients


def gradients_of(scores: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradients of scores [N] with respect to each input, summed over the samples; of scores [N, K], with K as the
    second dimension. None where the scores do not depend on an input.
    """
    if scores.dim() == 1:
        return weighted_gradients(scores, inputs, torch.ones_like(scores))
    classes = torch.eye(scores.shape[1], dtype=scores.dtype, device=scores.device)
    return weighted_gradients(scores, inputs, classes.expand(len(scores), -1, -1))


def weighted_gradients(outputs: Tensor, inputs: Sequence[Tensor], weights: Tensor) -> Sequence[Tensor | None]:
    """The gradients of the sum of ``outputs * weights`` with respect to each input; with weights [N, K, ...] for
    outputs [N, ...], those of K such sums, with K as the second dimension. None where the outputs do not depend on an
    input.
    """
    if not outputs.requires_grad:
        return [None] * len(inputs)
    if weights.dim() == outputs.dim():
        return list(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))
    if weights.shape[1] == 1:
        found: Sequence[Tensor | None] = torch.autograd.grad(outputs, inputs, weights[:, 0], allow_unused=True)
        return [None if gradient is None else gradient[:, None] for gradient in found]
    found = _batched_gradients(outputs, inputs, weights.transpose(0, 1))
    return [None if gradient is None else gradient.transpose(0, 1) for gradient in found]


def _batched_gradients(outputs: Tensor, inputs: Sequence[Tensor], weights: Tensor) -> Sequence[Tensor | None]:
    """For weights with K first: in one backward pass, or in K where an operation cannot be batched."""
    try:
        return torch.autograd.grad(
            outputs, inputs, weights, allow_unused=True, is_grads_batched=True, retain_graph=True
        )
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        rows = [torch.autograd.grad(outputs, inputs, one, allow_unused=True, retain_graph=True) for one in weights]
        return [
            None if any(gradient is None for gradient in column) else torch.stack(column)
            for column in zip(*rows, strict=True)
        ]


def check_parameters(model: nn.Module) -> None:
    """Raises ValueError for parameters that autograd cannot use, or that are not there yet."""
    for tensor in (*model.parameters(), *model.buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError("the model has lazy parameters that no input has shaped yet; run it once first")
        if tensor.is_inference():
            raise ValueError(
                "the model was made under torch.inference_mode(), so autograd cannot use its parameters; "
                "make or load it outside"
            )


class Seen:
    """Hooks that remember what layers put out and, where asked to, start the graph there."""

    def __init__(self, layers: Mapping[str, nn.Module], cut: bool, copied: bool) -> None:
        self._layers = layers
        self._names = list(layers)
        self._cut = cut
        self._copied = copied
        self._activations: dict[str, Tensor] = {}
        self._switched: list[Tensor] = []
        self.without_grad: set[str] = set()
        """Layers that ran with grad mode off."""

    def hook(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        name = self._names[index]

        def remember(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            kept = mapped(lambda tensor: self._kept(tensor, args), require_tensors(name, output))
            self._activations[name] = kept
            if not self._cut:
                return mapped(torch.clone, kept) if self._copied else kept
            if not torch.is_grad_enabled():
                self.without_grad.add(name)
            # Also where an earlier target layer, or the model, has begun a graph: that one goes on through here.
            torch.set_grad_enabled(True)
            return mapped(torch.clone, kept)

        return remember

    def hook_before(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        """A hook that remembers what a layer takes by position, and starts the graph at these very tensors: what else
        the model makes of them counts too, as of the input of a block that is also added to its output."""
        name = self._names[index]

        def remember(module: nn.Module, args: tuple[Any, ...], _: Any) -> Any:
            self._activations[name] = require_tensors(name, args, "takes")
            if not torch.is_grad_enabled():
                self.without_grad.add(name)
            torch.set_grad_enabled(True)
            for tensor in tensors_in(args):
                if not tensor.requires_grad:
                    self._switched.append(tensor.requires_grad_())
            return mapped(torch.clone, args)

        return remember

    @contextlib.contextmanager
    def hooked(self, at_inputs: bool = False) -> Iterator[None]:
        """The hooks for the length of a block, at what the layers put out or at what they take."""
        make_hook = self.hook_before if at_inputs else self.hook
        try:
            with forward_hooks(self._layers.values(), make_hook, before=at_inputs):
                yield
        finally:
            for tensor in self._switched:  # some may be parameters, or the user's
                tensor.requires_grad_(False)
            self._switched.clear()

    def _kept(self, activation: Tensor, args: tuple[Any, ...]) -> Tensor:
        # What is kept must be out of reach of in-place operations on what goes on through the model: on the
        # output, and also on the input where the layer passes that on.
        if any(isinstance(arg, Tensor) and _same_memory(arg, activation) for arg in args):
            activation = activation.clone()
        if self._cut and not activation.requires_grad:
            activation = activation.detach().requires_grad_()
        return activation

    def all(self) -> dict[str, Tensor]:
        """By name, in the order of the layers."""
        for name in self._names:
            if name not in self._activations:
                raise ValueError(f"target layer {name!r} did not run in the forward pass; choose one that does")
        return {name: self._activations[name] for name in self._names}


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@contextlib.contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no inference mode, and no compiled code for a block."""
    modules = modules_of(model)
    with torch.inference_mode(False), evaluating(modules), running_eagerly(modules):
        yield


_lock = threading.Lock()
_switched: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""Modules that were in training mode, and how many blocks need them not to be."""


@contextlib.contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode for the length of a block; afterwards every module has the mode that it had.

    Blocks of several threads may overlap on a model or on parts of it: the last one out switches a module back.
    """
    with _lock:
        held = [module for module in modules if module.training or (_switched and module in _switched)]
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
