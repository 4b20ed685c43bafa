"""Ablation by an ablation layer: which channels, and what they become, is for that to say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from camfast import methods
from camfast.explanation import Explanation, MapForm
from camfast.hooks import forward_hooks
from camfast.inputs import Batch
from camfast.outputs import Chosen
from camfast.passes import prepared
from camfast.runners import ModelRunner
from camfast.targets import Classes, Scores
from camfast.trials import scoring

_DEFAULT_TOGETHER = 32


class AblationByLayer(methods.AblationCAM):
    """As :class:`camfast.AblationCAM`, but for the passes: the whole model runs, with the layer's output replaced."""

    def __init__(self, *args: Any, ablation_layer: Any, ratio: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._ablation_layer = ablation_layer
        self._ratio = ratio

    def _explain(self, runner: ModelRunner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        result = runner.forward(batch)
        with prepared(self.model), torch.no_grad():
            classes = None if isinstance(targets, Scores) else targets.resolve(result.output)
            score = scoring(targets, classes)
            everyone = torch.arange(len(batch), device=batch.images.device)
            whole = score(result.output, everyone)
            maps = []
            for name, activations in result.activations.items():
                feature_maps = self._feature_maps(name, activations)
                less = [
                    self._less(name, n, batch, activations, feature_maps, score, whole[n]) for n in range(len(batch))
                ]
                weights = (whole[:, None] - torch.stack(less)) / whole[:, None]
                maps.append(self._form(feature_maps, weights=weights.float()))
            heatmaps, ranges = self.joined(maps, form)
        return Explanation(heatmaps.float(), result.output, classes, ranges.float())

    def _less(
        self, name: str, sample: int, batch: Batch, activations: Any, feature_maps: Tensor, score: Any, whole: Tensor
    ) -> Tensor:
        """The scores [C] of one sample without each channel; with all of them, where none is ablated."""
        assert self._layers is not None  # found before the first call
        layer = self._ablation_layer
        scores = whole.expand(feature_maps.shape[1]).clone()
        chosen = layer.activations_to_be_ablated(feature_maps[sample].float().cpu().numpy(), self._ratio)
        channels = torch.as_tensor(chosen, device=scores.device).long()
        at_once = self._batch_size or _DEFAULT_TOGETHER
        for begin in range(0, len(channels), at_once):
            now = channels[begin : begin + at_once]
            layer.set_next_batch(input_batch_index=sample, activations=activations, num_channels_to_ablate=len(now))
            samples = torch.full_like(now, sample)
            with forward_hooks([self._layers[name]], lambda _: _replacing(layer)):
                output = Chosen(self.output, "AblationCAM").select(batch.taken(samples).call(self.model))
            scores[now] = score(output, samples).to(scores.dtype)
            layer.indices = layer.indices[len(now) :]
        return scores


def _replacing(layer: Any) -> Any:
    def replace(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return layer(args[0] if args else None)

    return replace
