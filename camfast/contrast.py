"""A class against those that the model takes it for: the score that Finer-CAM explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from camfast.scores import contrast
from camfast.targets import Classes, Scores


@dataclass(frozen=True)
class Contrast:
    """How the score of a class is held against others."""

    references: int
    """How many other classes, those with the logits closest to that of the class; no more than the model has."""
    alpha: float
    """How strongly."""
    weighting: Literal["mean", "probability"]
    """Whether the others count the same, or as likely as they are."""

    def score(self, output: Tensor, classes: Tensor) -> Tensor:
        """The scores of classes [N] or [N, K], of logits [N, M]: ``s - alpha * mean of the others``."""
        flat = classes if classes.dim() == 2 else classes[:, None]
        own = output.gather(1, flat)
        apart = (output.detach()[:, None] - own.detach()[:, :, None]).abs()
        apart = apart.scatter(2, flat[:, :, None], torch.inf)
        count = min(self.references, output.shape[1] - 1)
        if count == 0:
            raise ValueError("the model has one class, which FinerCAM cannot hold against others; use GradCAM")
        others = apart.topk(count, dim=2, largest=False).indices  # [N, K, R]
        logits = output[:, None].expand(-1, flat.shape[1], -1).gather(2, others)
        likely = None
        if self.weighting == "probability":
            likely = output.softmax(dim=1)[:, None].expand(-1, flat.shape[1], -1).gather(2, others)
        return contrast(own, logits, self.alpha, likely).reshape(classes.shape)


class Contrasted(Scores):
    """Classes, each held against others."""

    def __init__(self, classes: Classes, contrast: Contrast) -> None:
        self._classes = classes
        self._contrast = contrast

    def score(self, output: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        classes = self._classes.resolve(output)
        return self._contrast.score(output, classes), classes

    def part(self, begin: int, end: int) -> Contrasted:
        return Contrasted(self._classes.part(begin, end), self._contrast)

    def padded(self, samples: int) -> Contrasted:
        return Contrasted(self._classes.padded(samples), self._contrast)
