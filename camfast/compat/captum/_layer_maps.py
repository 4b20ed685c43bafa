"""Grad-CAM of what a layer puts out, in its own shape, signed, as captum has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camfast import ops, passes
from camfast.compat.captum._calls import finite_samples
from camfast.compat.captum._selected import Selected, output_tensor
from camfast.inputs import Batch
from camfast.passes import Seen
from camfast.reference import weighted_activations
from camfast.trees import tensors_in

Slopes = tuple[list[Tensor], list[Tensor]]
"""What a layer put out or took, and the gradients there."""


def slopes(
    model: nn.Module, layer: Mapping[str, nn.Module], batch: Batch, target: Selected, at_inputs: bool, graphs: bool
) -> tuple[Slopes, bool]:
    """One pass; and whether the model needs its graph before the layer too, to spare the first try when it runs again.

    Args:
        graphs: as the last call said.
    """
    found, graphs = passes.forward_and_gradient(
        model, layer, batch, output_tensor, target.score, graphs, at_inputs=at_inputs
    )
    (name,) = layer
    return (tensors_in(found.activations[name]), tensors_in(found.gradients[name])), graphs


def differentiable_slopes(
    model: nn.Module, layer: Mapping[str, nn.Module], batch: Batch, target: Selected, at_inputs: bool
) -> Slopes:
    """The same in the model's own mode, with a graph through all of it, so that a loss of the map can train it.

    Raises:
        ValueError: the score does not depend on the layer.
    """
    seen = Seen(layer, cut=True, copied=True)
    with torch.inference_mode(False), torch.enable_grad(), seen.hooked(at_inputs):
        output = output_tensor(batch.call(model))
        scores, _ = target.score(output)
        ((name, activations),) = seen.all().items()
        tensors = tensors_in(activations)
        found = torch.autograd.grad(scores, tensors, torch.ones_like(scores), create_graph=True, allow_unused=True)
        if all(gradient is None for gradient in found):
            raise ValueError(f"the score does not depend on layer {name!r}: no gradient flows back to it")
        gradients = [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]
    return tensors, gradients


def layer_map(activations: Tensor, gradients: Tensor, *, summed: bool, relu: bool) -> Tensor:
    """The map of one tensor of a layer.

    Args:
        activations, gradients: [N, C, …]; without further dimensions every channel is a place of its own.
        summed: add the channels up.
        relu: cut off what is negative.

    Returns:
        [N, 1, …], or [N, C, …] where not summed, in the dtype of the activations; zeros for a sample in which
        something is not finite.

    Raises:
        ValueError: there is no dimension of channels.
    """
    if activations.dim() < 2:
        raise ValueError(f"the layer has activations {list(activations.shape)}; expected [N, C, …]")
    maps = _on_a_plane(lambda a, g: _map(a, g, summed, relu), activations, gradients)
    return maps.to(activations.dtype)


def _on_a_plane(function: Callable[[Tensor, Tensor], Tensor], activations: Tensor, gradients: Tensor) -> Tensor:
    """A function of [N, C, h, w], for any number of positions: the rule knows no neighbours."""
    if activations.dim() == 4:
        return function(activations, gradients)
    samples, channels, *places = activations.shape
    count = activations[0, 0].numel() if samples else 1
    row = (samples, channels, 1, count)
    found = function(activations.reshape(row), gradients.reshape(row))
    return found.reshape(samples, found.shape[1], *places)


def _map(activations: Tensor, gradients: Tensor, summed: bool, relu: bool) -> Tensor:
    if summed:
        return ops.cam(activations, gradients, relu=relu, normalize=False)[0][:, None]
    wide = torch.float64 if activations.dtype == torch.float64 else torch.float32
    maps = weighted_activations(activations.to(wide), gradients.to(wide), None)
    maps = maps.where(finite_samples(maps), 0)
    return maps.clamp_min(0) if relu else maps


def formatted(tensors: list[Tensor]) -> Any:
    """A tuple of several tensors; one alone as it is."""
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
