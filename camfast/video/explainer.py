"""Frames through the model: batches of what the eye sees, to heat and classes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeVar

import torch
from torch import Tensor

from camfast.explainer import Explainer
from camfast.explanation import Explanation
from camfast.methods import GradCAM
from camfast.models import LoadedModel
from camfast.video.eye import Eye
from camfast.video.heat import Heat, drawn_ranges
from camfast.video.moment import ClassScore, Moment

Target = int | Literal["first", "clip"] | None
FIRST: Final = "first"
CLIP: Final = "clip"

_LARGEST_CHUNK = 32
"""Frames that go through the pipeline together at most, explained or not: they are all in memory."""


Other = TypeVar("Other")


def chunks(items: Iterable[Moment | Other], batch_size: int) -> Iterator[list[Moment | Other]]:
    """The same items in lists, each with as many frames to explain as go through the model together."""
    chunk: list[Moment | Other] = []
    seen = 0
    for item in items:
        chunk.append(item)
        seen += isinstance(item, Moment) and item.seen is not None
        if seen == batch_size or len(chunk) >= max(_LARGEST_CHUNK, batch_size):
            yield chunk
            chunk, seen = [], 0
    if chunk:
        yield chunk


class FrameExplainer:
    """Explains the frames of chunks; several threads may, and targets that the first frame decides wait for it.

    Args:
        model: whose preprocessing, device and class names count.
        cam: an engine on it.
        target: a class; None for the predicted one of each frame; ``"first"`` for that of the first frame.
        topk: how many classes to tell.
    """

    def __init__(
        self, model: LoadedModel, cam: Explainer, target: int | Literal["first"] | None, topk: int = 1
    ) -> None:
        self._model = model
        self._cam = cam
        self._topk = topk
        self._target: int | None = None if isinstance(target, str) else target
        self._decided = threading.Event()
        if target != FIRST:
            self._decided.set()

    def __call__(self, chunk: Sequence[Moment | Other], eye: Eye) -> list[Moment | Other]:
        """A chunk with heat and classes for what was seen."""
        moments = [item for item in chunk if isinstance(item, Moment) and item.seen is not None]
        if not moments:
            return list(chunk)
        try:
            if moments[0].index > 0:
                self._decided.wait()
            explained = iter(self._explained(moments, eye))
        finally:
            self._decided.set()  # also where the first chunk failed: nobody may wait for ever
        return [next(explained) if isinstance(item, Moment) and item.seen is not None else item for item in chunk]

    def logits_of(self, chunk: Sequence[Moment | Other]) -> tuple[Tensor, int]:
        """What the model puts out for what it sees of a chunk, and how many frames that has."""
        moments = [item for item in chunk if isinstance(item, Moment)]
        seen = [moment.seen for moment in moments if moment.seen is not None]
        if not seen:
            return torch.empty(0, 1), len(moments)
        return self._logits(self._input(seen)).cpu(), len(moments)

    def _logits(self, x: Tensor) -> Tensor:
        if isinstance(self._cam, GradCAM) and self._cam.settings["optimize"] != "none":
            # A faster copy of the model, in which a closed form makes the map cost next to nothing.
            return self._cam.explain(x, size="layer", normalize=False).logits
        return self._cam.logits(x)

    def _input(self, seen: Sequence[Tensor]) -> Tensor:
        squares = torch.stack(list(seen)).to(self._model.device)
        return self._model.preprocess.normalized(squares.permute(0, 2, 3, 1))

    def _explained(self, moments: Sequence[Moment], eye: Eye) -> list[Moment]:
        x = self._input([moment.seen for moment in moments if moment.seen is not None])
        if not self._decided.is_set():
            self._target = int(self._logits(x[:1]).argmax(dim=1))
        explained = self._cam.explain(x, self._target, size="layer", normalize=False)
        heatmaps, limits, probabilities, classes = self._on_host(explained)
        maps = eye.map_on_region(heatmaps)
        ranges = drawn_ranges(maps, eye.region.height, eye.region.width)
        ranges = ranges.masked_fill(limits.isnan(), torch.nan)
        told = map(self._scores, classes.long().tolist(), probabilities.tolist())
        # Clones: a frame that is kept does not keep the maps of a whole batch.
        return [
            replace(moment, heat=Heat(own.clone(), drawn.clone()), classes=scores, seen=None)
            for moment, own, drawn, scores in zip(moments, maps, ranges, told, strict=True)
        ]

    def _on_host(self, explained: Explanation) -> list[Tensor]:
        """Maps, their ranges, and how probable the explained class and the topk ones are, with their numbers.

        From a device they come in one copy, which waits for it once.
        """
        assert explained.targets is not None  # classes were asked for
        probabilities = explained.logits.float().softmax(dim=1)
        likely = probabilities.topk(min(self._topk, probabilities.shape[1]), dim=1).indices
        classes = torch.cat([explained.targets[:, None], likely], dim=1)
        maps = explained.heatmaps
        parts = [maps.flatten(1), explained.ranges, probabilities.gather(1, classes), classes.float()]
        told = torch.cat(parts, dim=1).cpu()  # classes are whole numbers below 2 ** 24, which float32 has
        flat, *rest = torch.split(told, [part.shape[1] for part in parts], dim=1)
        return [flat.view(maps.shape), *rest]

    def _scores(self, classes: Sequence[int], probabilities: Sequence[float]) -> tuple[ClassScore, ...]:
        """The explained class, which comes first, and the most probable others."""
        told = dict(zip(classes, probabilities, strict=True))
        return tuple(
            ClassScore(index, self._model.class_name(index), told[index]) for index in list(told)[: max(self._topk, 1)]
        )
