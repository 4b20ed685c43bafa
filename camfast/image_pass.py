"""The pass of methods that look at every layer: forward with a graph from the images on, and back to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camfast.inputs import Batch, normal_tensors
from camfast.passes import Select, check_parameters
from camfast.targets import Classes, Scores


@dataclass(frozen=True)
class ImagePass:
    """A forward pass whose graph begins at the images."""

    images: Tensor
    """[N, C, H, W]: where the graph begins."""
    output: Tensor
    """What the model put out, without a graph."""
    targets: Tensor | None
    """[N] or [N, K]: the classes, if there are any."""
    scores: Tensor
    """[N] or [N, K]."""

    def gradients(self, keep: bool = False) -> Iterator[Tensor]:
        """The gradient at the images, class by class.

        Args:
            keep: whether the graph is needed after the last one.

        Raises:
            ValueError: the scores do not depend on the images.
        """
        columns = self.scores.unbind(1) if self.scores.dim() == 2 else (self.scores,)
        for place, column in enumerate(columns, 1):
            yield self._gradient(column, keep or place < len(columns))

    def _gradient(self, scores: Tensor, keep: bool) -> Tensor:
        found: Tensor | None = None
        if scores.requires_grad:
            (found,) = torch.autograd.grad(
                scores, self.images, torch.ones_like(scores), retain_graph=keep, allow_unused=True
            )
        if found is None:
            raise ValueError(
                "no gradient flows back to the images: the score does not depend on them, or the model runs a part of "
                "itself under no_grad; use a method that needs the gradients of one layer alone, such as GradCAM"
            )
        return found

    def per_class(self, results: Sequence[Tensor]) -> Tensor:
        """What was found for each class, as [N, ...], or as [N, K, ...] of several classes."""
        return torch.stack(list(results), 1) if self.scores.dim() == 2 else results[0]


def run_from_images(model: nn.Module, batch: Batch, select: Select, targets: Classes | Scores) -> ImagePass:
    """One forward pass with a graph from the images on, for a model that is :func:`camfast.passes.prepared`.

    The model gets a copy of the images, which it may change in place.

    Raises:
        ValueError: the model was made in inference mode, or wrong targets.
    """
    check_parameters(model)
    with torch.enable_grad():
        images = normal_tensors(batch).images.detach().requires_grad_()
        output = select(normal_tensors(batch).with_images(images.clone()).call(model))
        scores, classes = targets.score(output)
    return ImagePass(images, output.detach(), classes, scores)
