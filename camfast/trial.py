"""Methods tried on one model and the same images: how fast they are, and how good their heatmaps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from camfast.errors import CamfastError
from camfast.images import RGB
from camfast.methods import Method
from camfast.metrics.evaluate import evaluate
from camfast.metrics.result import Scores
from camfast.models import LoadedModel

_LONG = 10
"""Times of what a method is timed for: a first call that takes longer counts, and is the only one."""


@dataclass(frozen=True)
class Trial:
    """What became of one method."""

    rate: float = math.nan
    """Images a second, by the median call."""
    scores: dict[str, Scores] = field(default_factory=dict)
    """By metric, over all images."""
    layers: Sequence[str] | None = None
    """The target layers."""
    reason: str | None = None
    """Why the method does not work on the model; None where it does."""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, as JSON has them."""
        if self.reason is not None:
            return {"not_applicable": self.reason}
        metrics = {name: scores.as_dict() for name, scores in self.scores.items()}
        return {
            "images_per_second": self.rate,
            "ms_per_image": 1000 / self.rate,
            "layers": self.layers,
            "metrics": metrics,
        }


class Trials:
    """A model and photos on which methods are tried.

    Args:
        model: from :func:`camfast.load_model`.
        photos: uint8 [H, W, 3] each.
        target: the class to explain; None for the predicted class of each.
        settings: of every method; those that are None are left to the method.
        metrics: names from ``camfast.metrics.METRICS``; none to measure the speed alone.
        batch_size: how many photos are explained in one call.
        seconds: how long each method is timed.
    """

    def __init__(
        self,
        model: LoadedModel,
        photos: Sequence[RGB],
        target: int | None,
        settings: Mapping[str, Any],
        metrics: Sequence[str],
        batch_size: int,
        seconds: float,
    ) -> None:
        self.model = model
        self._target = target
        self._settings = {name: value for name, value in settings.items() if value is not None}
        self._metrics = metrics
        self._seconds = seconds
        frames = [torch.from_numpy(photo).to(model.device)[None] for photo in photos]
        self._batches = torch.split(torch.cat([model.preprocess(frame) for frame in frames]), batch_size)

    def of(self, method: Method) -> Trial:
        """Tries a method. One that refuses the model, or needs further arguments, gives the reason."""
        try:
            explainer = method(self.model.module, **self._settings)
            rate = self._rate(lambda: explainer(self._batches[0], self._target))
            scores = self._judged(explainer) if self._metrics else {}
        except CamfastError:
            raise
        except (ValueError, TypeError) as error:
            return Trial(reason=(str(error).splitlines() or [type(error).__name__])[0])
        return Trial(rate, scores, explainer.target_layers)

    def as_dict(self) -> dict[str, Any]:
        """What was tried on what."""
        return {
            "model": self.model.name,
            "weights": self.model.weights,
            "device": str(self.model.device),
            "threads": torch.get_num_threads(),
            "images": self._count,
            "size": list(self._batches[0].shape[2:]),
            "batch": len(self._batches[0]),
            "target": self._target,
            "settings": self._settings,
        }

    def __str__(self) -> str:
        height, width = self._batches[0].shape[2:]
        images = "1 image" if self._count == 1 else f"{self._count} images"
        timed = len(self._batches[0])
        return (
            f"{self.model.name}, weights {self.model.weights}, {self.model.device}: {images} of {height}×{width}, "
            f"{timed} in a call"
        )

    @property
    def _count(self) -> int:
        return sum(map(len, self._batches))

    def _rate(self, call: Callable[[], Tensor]) -> float:
        """Images a second. The first call plans, so it counts only where it takes so long that this is no matter."""
        first = self._timed(call)
        times = [first] if first > _LONG * self._seconds else []
        while sum(times) < self._seconds:
            times.append(self._timed(call))
        return len(self._batches[0]) / statistics.median(times)

    def _timed(self, call: Callable[[], Tensor]) -> float:
        begun = time.perf_counter()
        call()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter() - begun

    def _judged(self, explainer: Any) -> dict[str, Scores]:
        found = [
            evaluate(explainer, batch, self._metrics, self._target, model=self.model.module).scores
            for batch in self._batches
        ]
        # Curves are of no use in a table of means.
        return {
            name: Scores(name, torch.cat([part[name].values for part in found]), found[0][name].higher_is_better)
            for name in self._metrics
        }
