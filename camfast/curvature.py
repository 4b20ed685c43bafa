"""A pass that also sees how the score bends: gradients at the target layers, less half a Hessian-vector product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camfast.hooks import forward_hooks
from camfast.inputs import Batch, normal_tensors
from camfast.passes import ForwardPass, GradientPass, Seen, Select, by_name, check_parameters, prepared
from camfast.plain_attention import PlainAttention
from camfast.runners import Runner
from camfast.targets import Classes, Scores
from camfast.trees import mapped, tensors_in, with_tensors


@dataclass(frozen=True)
class BentRunner:
    """Another runner, but for gradients: ``G - H A / 2`` is in their place, float32 or float64.

    ``A`` are the activations of a layer, ``G`` the gradients of the summed scores there, and ``H`` their Hessian.
    """

    inner: Runner
    model: nn.Module
    layers: Mapping[str, nn.Module]
    select: Select

    def gradient(self, batch: Batch, targets: Classes | Scores) -> GradientPass:
        """One forward pass; for every class one backward pass, and one more through that, down to the layers.

        Raises:
            ValueError: as :func:`camfast.passes.forward_and_gradient`.
            RuntimeError: an operation after a layer cannot be differentiated twice.
        """
        check_parameters(self.model)
        with prepared(self.model):
            activations, output = _begun(self.model, self.layers, normal_tensors(batch), self.select)
            with torch.enable_grad():
                scores, classes = targets.score(output)
                columns = scores.unbind(1) if scores.dim() == 2 else (scores,)
                with _saying_what_is_missing():
                    found = [_bent(column, activations) for column in columns]
        gradients = {}
        for name, activation in activations.items():
            of_classes = [tensors_in(of_class[name]) for of_class in found]
            if scores.dim() == 2:
                gradients[name] = with_tensors(activation, map(_stacked, zip(*of_classes, strict=True)))
            else:
                gradients[name] = with_tensors(activation, of_classes[0])
        detached = {name: mapped(Tensor.detach, activation) for name, activation in activations.items()}
        return GradientPass(detached, gradients, None, output.detach(), classes)

    def forward(self, batch: Batch) -> ForwardPass:
        return self.inner.forward(batch)

    def output(self, batch: Batch) -> Tensor:
        return self.inner.output(batch)

    def troubles(self) -> list[str | None]:
        return self.inner.troubles()


_ONCE = ("double backward", "derivative for", "differentiate twice")
"""What PyTorch says of operations without a second derivative."""


@contextmanager
def _saying_what_is_missing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not any(part in str(error) for part in _ONCE):
            raise
        raise RuntimeError(
            f"an operation after the target layer cannot be differentiated twice ({error}); choose a later layer, or "
            "GradCAM, which needs the first derivative alone"
        ) from error


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors), 1)


def _begun(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch, select: Select
) -> tuple[dict[str, Any], Tensor]:
    """Activations, where the graph begins, and the output. A model that holds a layer in a no_grad block of its own
    runs again, with a graph from the images on."""
    for graph_before_layer in (False, True):
        seen = Seen(layers, cut=True, copied=True)
        with torch.set_grad_enabled(graph_before_layer), PlainAttention():
            with forward_hooks(layers.values(), seen.hook):
                output = select(batch.map(torch.clone).call(model))
            begun = seen.all()
            if torch.is_grad_enabled():
                break
    return begun, output


def _bent(scores: Tensor, activations: Mapping[str, Any]) -> dict[str, Any]:
    """By layer name, for one class; in the form of the activations, where those are several tensors."""
    inside = {name: tensors_in(activation) for name, activation in activations.items()}
    tensors = [tensor for each in inside.values() for tensor in each]
    found: Sequence[Tensor | None] = [None] * len(tensors)
    if scores.requires_grad:
        found = torch.autograd.grad(scores, tensors, torch.ones_like(scores), create_graph=True, allow_unused=True)
    gradients = iter(found)
    own = {name: [next(gradients) for _ in each] for name, each in inside.items()}
    by_name(activations, [next((g for g in each if g is not None), None) for each in own.values()])
    return {
        name: with_tensors(activation, map(_less_half_product, own[name], inside[name]))
        for name, activation in activations.items()
    }


def _less_half_product(gradient: Tensor | None, activation: Tensor) -> Tensor:
    """The gradient less half of its derivative along the activation; zeros where there is no gradient."""
    dtype = torch.promote_types(activation.dtype, torch.float32)
    if gradient is None:
        return torch.zeros_like(activation, dtype=dtype)
    plain = gradient.detach().to(dtype)
    if not gradient.requires_grad:  # what follows the layer is linear
        return plain
    _check_differentiable(gradient)
    (product,) = torch.autograd.grad(gradient, activation, activation.detach(), retain_graph=True, allow_unused=True)
    return plain if product is None else plain - product.to(dtype) / 2


def _check_differentiable(gradient: Tensor) -> None:
    """Raises RuntimeError for operations marked as differentiable once, past which autograd silently finds nothing."""
    waiting = [gradient.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError(
                "an operation after the target layer is marked once_differentiable, so the score cannot be "
                "differentiated twice; choose a later layer, or GradCAM, which needs the first derivative alone"
            )
        found = {following for following, _ in node.next_functions} - seen
        seen |= found
        waiting += found
