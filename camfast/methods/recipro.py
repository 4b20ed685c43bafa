"""Recipro-CAM: a place is as hot as the class is likely when only that place of the feature map is left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camfast.engine import Engine
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.layers import Layers
from camfast.maps import drawn
from camfast.options import check_flag
from camfast.passes import prepared
from camfast.positions import places_of
from camfast.progress import Progress
from camfast.runners import ModelRunner
from camfast.targets import Classes, Scores
from camfast.trials import check_batch_size, scores_of, scoring, together


class ReciproCAM(Engine):
    """Recipro-CAM (Byun and Lee 2022, https://arxiv.org/abs/2209.14074): no gradients.

    For every place of the feature map all others are taken away, and the probability of the class, by what follows the
    layer, is the heat of that place. Class tokens and the like stay. Of callables the score itself is taken.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`.
        gaussian: leave the places around, too, with the weights of a 3 × 3 Gaussian, as in the paper.
        batch_size: how many places run together; None for as many as suit the memory. Halved where that runs out.
        progress: show how far it is, on stderr.
        options: as for :class:`camfast.GradCAM`. What follows the layer is the model's own, whatever ``optimize`` and
            ``precision`` are.

    Raises:
        ValueError: ``batch_size`` is not a whole number of at least 1.
    """

    uses_gradients = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        gaussian: bool = True,
        batch_size: int | None = None,
        progress: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **options)
        self._gaussian = check_flag("gaussian", gaussian)
        self._batch_size = check_batch_size(batch_size)
        self._progress = progress
        self.parameters = {"gaussian": gaussian}

    def _explain(self, runner: ModelRunner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        result = runner.forward(batch)
        with prepared(self.model), torch.no_grad():
            classes = None if isinstance(targets, Scores) else targets.resolve(result.output)
            score = scoring(targets, classes)
            if classes is not None:
                score = _of_probabilities(score)
            maps = []
            for name, activations in result.activations.items():
                layer = self._map(runner, name, batch, activations, score)
                finite = activations.flatten(1).isfinite().all(dim=1)
                layer = layer.masked_fill(~finite.reshape(-1, *[1] * (layer.dim() - 1)), torch.nan)
                maps.append(drawn(layer, batch.images.dim() - 2, relu=False))
            heatmaps, ranges = self.joined(maps, form)
        return Explanation(heatmaps.float(), result.output, classes, ranges.float())

    def _map(self, runner: ModelRunner, name: str, batch: Batch, activations: Tensor, score: Any) -> Tensor:
        """[N, h, w] or [N, K, h, w]."""
        grid = self._feature_maps(name, activations[:1]).shape[2:]
        first, places = places_of(activations, lambda tensor: self._feature_maps(name, tensor))
        masks = _masks(grid, self._gaussian).to(activations)  # [h w, h w]
        row = first(activations).flatten(2)
        kept = activations.new_ones(len(masks), row.shape[2])
        kept[:, places] = masks
        kept = kept.reshape(len(masks), 1, *first(activations).shape[2:])
        samples = torch.arange(len(activations), device=activations.device).repeat_interleave(len(masks))
        go_on = runner.rest(name).of(batch)

        def run(begin: int, end: int) -> Tensor:
            changed = activations[samples[begin:end]]
            rows = torch.arange(begin, end, device=samples.device) % len(masks)
            first(changed).mul_(kept[rows])
            return go_on(changed, samples[begin:end])

        at_once = together(self._batch_size, activations[0])
        with Progress("Recipro-CAM", len(samples), "places", quiet=not self._progress) as progress:
            scores = scores_of(run, samples, score, at_once, progress)
        placed = scores.reshape(len(activations), len(masks), *scores.shape[1:]).movedim(1, -1)
        return placed.unflatten(-1, tuple(grid))  # type: ignore[no-any-return, no-untyped-call]


def _of_probabilities(score: Any) -> Any:
    return lambda output, samples: score(output.float().softmax(dim=1), samples)


def _masks(grid: Sequence[int], gaussian: bool) -> Tensor:
    """What stays of a feature map for each of its places, [h w, h w]."""
    # The weights are those of two neighbours in a row, multiplied over the dimensions.
    row = torch.tensor([1 / 2, 1 / 4] if gaussian else [1.0, 0.0])
    places = [torch.arange(length) for length in grid]
    apart = [(one[:, None] - one).abs() for one in places]
    return functools.reduce(torch.kron, [row[d.clamp(max=1)] * (d < 2) for d in apart])
