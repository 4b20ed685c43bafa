"""The score that Finer-CAM explains, for classes that are counted by how close they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camfast.compat.pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from camfast.scores import contrast
from camfast.targets import Scores

_CLOSEST = (1, 2, 3)


class Compared(Scores):
    """Every sample's class against others, by how likely those are.

    Args:
        alpha: how strongly the others count.
        places: which others: 1 is the class whose logit comes closest, 2 the next, and so on; those that the model has
            not are left out. None for the closest three.
        category: the class of every sample; None for the predicted ones.
    """

    def __init__(self, alpha: float, places: Sequence[int] | None, category: int | None) -> None:
        self._alpha = alpha
        self._places = _CLOSEST if places is None else tuple(places)
        self._category = category

    def score(self, output: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The scores [N] of logits [N, classes], and the classes."""
        order = self._ordered(output)
        own, others = order[:, :1], order[:, self._kept(output)]
        likely = output.softmax(dim=1).gather(1, others)
        found = contrast(output.gather(1, own)[:, 0], output.gather(1, others), self._alpha, likely)
        return found, own[:, 0]

    def listed(self, output: Tensor) -> list[Callable[[Any], Any]]:
        """One callable a sample."""
        kept = self._kept(output)
        return [
            FinerWeightedTarget(row[0], [row[place] for place in kept], self._alpha)
            for row in self._ordered(output).tolist()
        ]

    def part(self, begin: int, end: int) -> Compared:
        return self

    def padded(self, samples: int) -> Compared:
        return self

    def _ordered(self, output: Tensor) -> Tensor:
        """The classes of every sample, those with the closest logits first, which begins with the class itself."""
        if output.dim() != 2:
            raise ValueError(f"the model's output has shape {list(output.shape)}; FinerCAM expects [N, classes]")
        logits = output.detach()
        chosen = logits.argmax(dim=1, keepdim=True)
        if self._category is not None:
            chosen = torch.full_like(chosen, range(logits.shape[1])[self._category])
        apart = (logits - logits.gather(1, chosen)).abs().scatter(1, chosen, -1)
        return apart.argsort(dim=1)

    def _kept(self, output: Tensor) -> list[int]:
        kept = [place for place in self._places if place < output.shape[1]]
        if not kept:
            raise ValueError(
                f"comparison_categories={list(self._places)} has no class of a model with {output.shape[1]}; expected "
                "numbers from 1 on, the class whose logit comes closest being 1"
            )
        return kept
