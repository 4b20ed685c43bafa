"""Activations, and gradients there, as modules that TorchScript compiles: by a closed form, or by autograd.

As in :mod:`camfast.runners`, but for one class a sample. TorchScript reads the annotations of attributes here, which
therefore are no strings (``from __future__ import annotations`` makes them that).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camfast.pointwise import Pointwise


class Seen(NamedTuple):
    """What an explanation is made of; either ``gradients`` or ``weights``."""

    activations: Tensor
    gradients: Tensor | None
    weights: Tensor | None
    """[N, C]: the mean of the gradients over the positions."""
    logits: Tensor
    targets: Tensor


class Pooled(NamedTuple):
    """What a head makes of a pooled map."""

    gradient: Tensor
    """[N, C]: of the class, with respect to the pooled map."""
    logits: Tensor
    targets: Tensor


def chosen(logits: Tensor, targets: Tensor | None) -> Tensor:
    """The classes [N]: those with the highest logits where none, or a negative one, is given."""
    highest = logits.argmax(dim=1)
    return highest if targets is None else torch.where(targets < 0, highest, targets)


class LinearHead(nn.Module):
    """A linear layer on the flat pooled map: the gradient of a class is a row of its weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), False)

    def forward(self, pooled: Tensor, targets: Tensor | None) -> Pooled:
        logits = F.linear(pooled.flatten(1), self.weight, self.bias)
        classes = chosen(logits, targets)
        return Pooled(self.weight[classes], logits, classes)


class AnyHead(nn.Module):
    """Anything else on the pooled map: autograd goes through it, on vectors."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, pooled: Tensor, targets: Tensor | None) -> Pooled:
        grad_mode = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        start = pooled.detach().requires_grad_()
        logits = self.head(start.clone())  # which the head may change in place
        classes = chosen(logits.detach(), targets)
        score = logits.gather(1, classes[:, None]).sum()
        gradient = torch.autograd.grad([score], [start])[0]
        torch.set_grad_enabled(grad_mode)
        assert gradient is not None  # the closed form was proved with it
        return Pooled(gradient.flatten(1), logits.detach(), classes)


class ClosedForm(nn.Module):
    """The part up to the layer, what lies between it and pooling, the mean over positions, and a head; see
    :mod:`camfast.tail`."""

    def __init__(
        self, before: nn.Module, between: Pointwise, head: nn.Module, keeps_positions: bool, averaged: bool
    ) -> None:
        """
        Args:
            before: makes activations [N, C, h, w] of images.
            between: what lies between the layer and the pooling.
            head: makes :class:`Pooled` of a pooled map and classes.
            keeps_positions: whether the head takes [N, C, 1, 1], and not [N, C].
            averaged: whether the mean of the gradients is asked for in their place.
        """
        super().__init__()
        self.before = before
        self.between = between
        self.head = head
        self.keeps_positions = keeps_positions
        self.averaged = averaged

    def forward(self, x: Tensor, targets: Tensor | None) -> Seen:
        activations = self.before(x)
        pooled = self.between(activations).mean(dim=(2, 3), keepdim=self.keeps_positions)
        gradient, logits, classes = self.head(pooled, targets)
        positions = activations.shape[2] * activations.shape[3]
        if self.averaged and self.between.is_linear():
            return Seen(activations, None, self.between.scaled(gradient.float()) / positions, logits, classes)
        return Seen(activations, self.between.back(activations, gradient / positions), None, logits, classes)


class Cut(nn.Module):
    """Where a graph begins."""

    def forward(self, activations: Tensor) -> Tensor:
        return activations.detach().requires_grad_()


class ByAutograd(nn.Module):
    """A whole model, whose graph begins at the layer."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        """
        Args:
            model: makes the output and what the layer put out of images; nothing of it asks for a gradient, but what
                the layer put out.
            layer: its name.
        """
        super().__init__()
        self.model = model
        self.layer = layer

    def forward(self, x: Tensor, targets: Tensor | None) -> Seen:
        if x.is_inference():
            raise ValueError("the explainer needs gradients; call it outside torch.inference_mode(), with a clone of x")
        grad_mode = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        logits, activations = self.model(x.detach())
        classes = chosen(logits.detach(), targets)
        score = logits.gather(1, classes[:, None]).sum()
        gradient = torch.autograd.grad([score], [activations], allow_unused=True)[0]
        torch.set_grad_enabled(grad_mode)
        if gradient is None:
            raise ValueError(f"the score does not depend on layer {self.layer}: no gradient flows back to it")
        return Seen(activations.detach(), gradient, None, logits.detach(), classes)
