"""Score-CAM and its kin: a channel weighs what the model says to the part of the image that the channel shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from camfast.engine import Engine
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch
from camfast.layers import Layers
from camfast.maps import LayerMap, drawn, weighted
from camfast.options import check_count, check_deviation, check_seed
from camfast.progress import Progress
from camfast.runners import Runner
from camfast.targets import Classes, Scores
from camfast.trials import check_batch_size, scores_of, scoring, together


class ScoreCAM(Engine):
    """Score-CAM (Wang et al. 2020, https://arxiv.org/abs/1910.01279): no gradients.

    Every channel, interpolated to the size of the image and stretched to [0, 1], masks the image; the weights are the
    softmax over the channels of the scores that the model gives to the masked images. Channels without any contrast
    mask all of the image, and share one pass.

    The model runs once for every channel, so a copy of it is worth its while: ``optimize`` is ``"inference"`` unless
    given; ``precision="bf16"`` is faster still.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`.
        batch_size: how many masked images run together; None for as many as suit the memory. Halved where that runs
            out.
        progress: show how far it is, on stderr.
        options: as for :class:`camfast.GradCAM`.

    Raises:
        ValueError: ``batch_size`` is not a whole number of at least 1.
    """

    uses_gradients = False

    _label: ClassVar[str] = "Score-CAM"
    _form: Callable[..., LayerMap] = staticmethod(weighted)

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        batch_size: int | None = None,
        progress: bool = False,
        optimize: str = "inference",
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, optimize=optimize, **options)
        self._batch_size = check_batch_size(batch_size)
        self._progress = progress

    def _explain(self, runner: Runner, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation:
        result = runner.forward(batch)
        with torch.inference_mode(False), torch.no_grad():
            classes = None if isinstance(targets, Scores) else targets.resolve(result.output)
            score = scoring(targets, classes)
            maps = []
            for name, activations in result.activations.items():
                feature_maps = self._feature_maps(name, activations)
                scores = self._scores(runner, batch, feature_maps.to(batch.images.dtype), score)
                maps.append(self._form(feature_maps, weights=scores.softmax(dim=-1)))
            heatmaps, ranges = self.joined(maps, form)
        return Explanation(heatmaps.float(), result.output, classes, ranges.float())

    def _scores(self, runner: Runner, batch: Batch, channels: Tensor, score: Any) -> Tensor:
        """Of every channel, [N, C] or [N, K, C], averaged over the passes."""
        samples, count = channels.shape[:2]
        flat = channels.flatten(2)
        blank = ~(flat.amax(dim=2) > flat.amin(dim=2))  # [N, C]; what is not finite too
        shown = [(n, c) for n, c in (~blank).nonzero().tolist()]
        alike = [int(n) for n in blank.any(dim=1).nonzero().flatten()]
        first = blank.int().argmax(dim=1).tolist()
        trials = torch.tensor([*shown, *((n, first[n]) for n in alike)], dtype=torch.int64).reshape(-1, 2)
        trials = trials.to(channels.device)
        total: Tensor | None = None
        at_once = together(self._batch_size, batch.images[0])
        with Progress(self._label, len(trials) * self._passes, "images", quiet=not self._progress) as progress:
            for index in range(self._passes):

                def run(begin: int, end: int, index: int = index) -> Tensor:
                    of, channel = trials[begin:end].unbind(1)
                    masks = self._masks(channels[of, channel], batch.images.shape[2:])[:, None]
                    masks = self._altered(masks, [index * count + c for c in channel.tolist()], index)
                    return runner.output(batch.taken(of).with_images(batch.images[of] * masks))

                scores = scores_of(run, trials[:, 0], score, at_once, progress)
                total = scores if total is None else total + scores
        assert total is not None
        total = total / self._passes
        full = total.new_zeros(samples, count, *total.shape[1:])
        full[trials[: len(shown), 0], trials[: len(shown), 1]] = total[: len(shown)]
        for place, n in enumerate(alike):
            full[n, blank[n]] = total[len(shown) + place]
        return full.movedim(1, -1)

    _passes: int = 1
    """How many times every channel is shown."""

    def _masks(self, channels: Tensor, size: tuple[int, ...]) -> Tensor:
        """Channels [M, h, w] at the size of the image, stretched to [0, 1]; zeros where there is no contrast."""
        return drawn(channels, len(size), relu=False)(size=size)[0].to(channels.dtype)

    def _altered(self, masks: Tensor, numbers: list[int], index: int) -> Tensor:
        """The masks [M, 1, H, W] of one pass; the number of each is that of channel and pass."""
        return masks


class SSCAM(ScoreCAM):
    """SS-CAM, smoothed Score-CAM (Wang et al. 2020, https://arxiv.org/abs/2006.14255).

    As Score-CAM, with normal noise on the masks and the scores averaged over several draws.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`.
        num_samples: how many draws.
        std: the standard deviation of the noise; the masks are in [0, 1].
        seed: of the noise: the same seed and images give the same heatmaps.
        options: as for :class:`ScoreCAM`.

    Raises:
        ValueError: ``num_samples`` is below 1, or ``std`` negative.
    """

    _label = "SS-CAM"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        num_samples: int = 35,
        std: float = 2.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **options)
        self._passes = check_count("num_samples", num_samples)
        self._std = check_deviation(std)
        self._seed = check_seed(seed)
        self.parameters = {"num_samples": num_samples, "std": std, "seed": seed}

    def _altered(self, masks: Tensor, numbers: list[int], index: int) -> Tensor:
        # Noise of each channel's own: what a sample gets depends on no other, and not on how many run together.
        generator = torch.Generator(masks.device)
        noise = torch.empty(masks.shape, dtype=torch.float32, device=masks.device)
        for one, number in zip(noise, numbers, strict=True):
            one.normal_(0, self._std, generator=generator.manual_seed(self._seed * 1_000_003 + number))
        return masks + noise.to(masks.dtype)


class ISCAM(ScoreCAM):
    """IS-CAM, integrated Score-CAM (Naidu et al. 2020, https://arxiv.org/abs/2010.03023).

    As Score-CAM, with the scores averaged over masked images whose brightness grows: in pass i of n it is
    ``sum of j / n for j = 1 … i``.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`.
        num_samples: how many passes.
        options: as for :class:`ScoreCAM`.

    Raises:
        ValueError: ``num_samples`` is below 1.
    """

    _label = "IS-CAM"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        num_samples: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **options)
        self._passes = check_count("num_samples", num_samples)
        self.parameters = {"num_samples": num_samples}

    def _altered(self, masks: Tensor, numbers: list[int], index: int) -> Tensor:
        return masks * ((index + 1) * (index + 2) / (2 * self._passes))
