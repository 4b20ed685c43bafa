"""Ablation-CAM: a channel weighs what the score loses without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast.engine import Engine
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.layers import Layers
from camfast.maps import LayerMap, weighted
from camfast.passes import prepared
from camfast.positions import channels_first
from camfast.progress import Progress
from camfast.runners import ModelRunner
from camfast.targets import Classes, Scores
from camfast.trials import check_batch_size, scores_of, scoring, together


class AblationCAM(Engine):
    """Ablation-CAM (Desai and Ramaswamy 2020, https://doi.org/10.1109/WACV45572.2020.9093360): no gradients.

    A channel weighs ``(s - s_c) / s``, with ``s`` the score and ``s_c`` the score where the channel is set to zero.
    Only what follows the layer runs again, with many channels at a time; channels that are zero already cost nothing.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`.
        batch_size: how many ablations run together; None for as many as suit the memory. Halved where that runs out.
        progress: show how far it is, on stderr.
        options: as for :class:`camfast.GradCAM`. What follows the layer is the model's own, whatever ``optimize`` and
            ``precision`` are: the differences are small.

    Raises:
        ValueError: ``batch_size`` is not a whole number of at least 1.
    """

    uses_gradients = False

    _form: Callable[..., LayerMap] = staticmethod(weighted)

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        batch_size: int | None = None,
        progress: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **options)
        self._batch_size = check_batch_size(batch_size)
        self._progress = progress

    def _explain(self, runner: ModelRunner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        result = runner.forward(batch)
        with prepared(self.model), torch.no_grad():
            classes = None if isinstance(targets, Scores) else targets.resolve(result.output)
            score = scoring(targets, classes)
            maps = []
            for name, activations in result.activations.items():
                feature_maps = self._feature_maps(name, activations)
                first = channels_first(activations, feature_maps)
                weights = self._weights(runner, name, batch, activations, first, score)
                maps.append(self._form(feature_maps, weights=weights))
            heatmaps, ranges = self.joined(maps, form)
        return Explanation(heatmaps.float(), result.output, classes, ranges.float())

    def _weights(
        self, runner: ModelRunner, name: str, batch: Batch, activations: Tensor, first: Any, score: Any
    ) -> Tensor:
        """[N, C] or [N, K, C]."""
        channels = first(activations)
        alive = (channels != 0).flatten(2).any(dim=2)  # [N, C]; NaN is not 0
        ablated = alive.nonzero()
        everyone = torch.arange(len(channels), device=channels.device)
        trials = torch.cat([everyone, ablated[:, 0]])  # all samples as they are, and then with a channel less
        go_on = runner.rest(name).of(batch)

        def run(begin: int, end: int) -> Tensor:
            samples = trials[begin:end]
            changed = activations[samples]
            rows = torch.arange(begin, end, device=samples.device) - len(everyone)
            without = (rows >= 0).nonzero().flatten()
            first(changed)[without, ablated[rows[without], 1]] = 0
            return go_on(changed, samples)

        at_once = together(self._batch_size, activations[0])
        with Progress("Ablation-CAM", len(trials), "ablations", quiet=not self._progress) as progress:
            scores = scores_of(run, trials, score, at_once, progress)
        whole, less = scores[: len(everyone)], scores[len(everyone) :]
        weights = scores.new_zeros(*alive.shape, *scores.shape[1:])
        weights[ablated[:, 0], ablated[:, 1]] = (whole[ablated[:, 0]] - less) / whole[ablated[:, 0]]
        return weights.movedim(1, -1)
