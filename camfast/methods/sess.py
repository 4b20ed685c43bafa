"""SESS: the maps of many windows of an image, at several scales, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from camfast.explainer import Size, check_size
from camfast.explanation import Explanation
from camfast.inputs import Inputs, check_inputs
from camfast.layers import Layers
from camfast.maps import drawn
from camfast.methods.composite import Composite
from camfast.options import check_count, check_flag
from camfast.progress import Progress
from camfast.targets import Classes, Scores, Target, check_targets
from camfast.windows import windows


class SESS(Composite):
    """SESS, saliency enhancing with scaling and sliding (Tursun et al. 2022, https://arxiv.org/abs/2207.01769).

    The image is enlarged to several scales, and windows of the size that the model takes slide over each. The heatmap
    of every window, times the probability of the class in it over that of the likeliest window, goes back to where it
    came from; a place is as hot as the windows around it on average, where they are hot at all. Small objects, and
    several of them, are found where one pass over the whole image misses them. One class of every image is explained;
    where none is given it is that of the whole image, and so are the logits.

    Args:
        model, target_layers, reshape_transform: as for :class:`camfast.GradCAM`.
        base: the method that makes the maps, by name or class; ``"gradcam"`` unless given.
        num_scales: how many scales, the first being the size of the window, each ``2 / 7`` of that larger than the one
            before.
        scales: the scales themselves, as lengths of the image's shorter side in pixels.
        window: the side of the windows in pixels; None for the shorter side of the image.
        step: from one window to the next in pixels; None for the side of the windows.
        pool: ``"mean"`` of the windows at a place, or their ``"max"``.
        blur: blur the result with a Gaussian of 11 × 11 pixels and a standard deviation of 5.
        batch_size: how many windows are explained together.
        progress: show how far it is, on stderr.
        options: as for the method.

    Raises:
        ValueError: a number out of range, an unknown ``pool``; in a call, several classes, volumes, or scales that are
            smaller than the window.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Layers | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        num_scales: int = 12,
        scales: Sequence[int] | None = None,
        window: int | None = None,
        step: int | None = None,
        pool: Literal["mean", "max"] = "mean",
        blur: bool = True,
        batch_size: int = 32,
        progress: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **options)
        if scales is not None and (not isinstance(scales, Sequence) or len(scales) == 0):
            raise ValueError(f"scales={scales!r}; expected a list of lengths in pixels, or None")
        if pool not in ("mean", "max"):
            raise ValueError(f"pool={pool!r}; expected 'mean' or 'max'")
        self._batch_size = check_count("batch_size", batch_size)
        self._progress = check_flag("progress", progress)
        self.parameters = {
            "num_scales": check_count("num_scales", num_scales),
            "scales": None if scales is None else [check_count("scales", scale) for scale in scales],
            "window": None if window is None else check_count("window", window),
            "step": None if step is None else check_count("step", step),
            "pool": pool,
            "blur": check_flag("blur", blur),
        }

    def _explain(self, x: Inputs, targets: Target, size: Size | None, normalize: bool) -> Explanation:
        batch = check_inputs(x)
        if batch.images.dim() != 4 or not batch.alone:
            raise ValueError("SESS slides over images [N, C, H, W]; x has other inputs, or other dimensions")
        drawn_at = check_size(size, batch.size, exact=True)
        wanted = check_targets(targets, len(batch))
        if isinstance(wanted, Classes) and wanted.several:
            raise ValueError("SESS explains one class of every image; give one at a time")
        if len(batch) == 0:
            return self.engine.explain(x, targets, size=size, normalize=normalize)
        whole = self.engine.explain(x, wanted, size="layer" if size == "layer" else None)
        if whole.targets is not None:
            wanted = Classes(whole.targets, checked=True)
        images = batch.images.detach()
        found = self._found(images, wanted)
        drawn_at = drawn_at or tuple(whole.heatmaps.shape[-2:])
        heatmaps, ranges = drawn(found, relu=False)(size=drawn_at, normalize=normalize)
        return Explanation(heatmaps, whole.logits, whole.targets, ranges)

    def _found(self, images: Tensor, targets: Classes | Scores) -> Tensor:
        """What is found in all windows together, [N, H, W]."""
        samples, (height, width) = len(images), images.shape[-2:]
        side = self.parameters["window"] or min(height, width)
        cut = list(windows(images, side, self.parameters["step"] or side, self._scales(side)))
        maps, likely = self._explained([shown for _, shown in cut], targets)  # [W, N, side, side] and [W, N]
        likely = self._weights(likely)
        total, count = (torch.zeros(samples, height, width, device=images.device) for _ in range(2))
        for (window, _), own, weight in zip(cut, maps, likely, strict=True):
            spread = window.spread(own * weight[:, None, None], (height, width))
            if self.parameters["pool"] == "max":
                total = torch.maximum(total, spread)
            else:
                counted = spread > self._threshold
                total, count = total + spread * counted, count + counted
        found = total / count.clamp_min(1)
        return gaussian_blur(found, [11, 11], [5.0, 5.0]) if self.parameters["blur"] else found

    _threshold: float = 0
    """What a window shows of a place counts where it is above this."""

    def _weights(self, likely: Tensor) -> Tensor:
        """What each window counts, [W, N]: 1 the likeliest of an image; all the same where none is likely at all."""
        best = likely.amax(dim=0)
        return torch.where(best > 0, likely / best, torch.ones_like(likely))

    def _scales(self, side: int) -> list[int]:
        scales = self.parameters["scales"]
        if scales is None:
            return [side + round(side * 2 / 7) * index for index in range(self.parameters["num_scales"])]
        if min(scales) < side:
            raise ValueError(f"scales={scales}; expected at least {side} each, the side of the windows")
        return list(scales)

    def _explained(self, shown: list[Tensor], targets: Classes | Scores) -> tuple[Tensor, Tensor]:
        """The heatmaps of all windows, and how likely each shows the class."""
        everything = torch.cat(shown)  # window by window, all samples of each
        repeated = targets.repeated(len(shown))
        maps, likely = [], []
        with Progress("SESS", len(everything), "windows", quiet=not self._progress) as progress:
            for begin in range(0, len(everything), self._batch_size):
                end = min(begin + self._batch_size, len(everything))
                wanted = repeated.part(begin, end)
                result = self.engine.explain(everything[begin:end], wanted)
                maps.append(result.heatmaps.masked_fill(result.ranges[:, :1, None].isnan(), torch.nan))
                likely.append(self._likely(result, wanted))
                progress.advance(end - begin)
        samples = len(shown[0])
        return (
            torch.cat(maps).unflatten(0, (len(shown), samples)),  # type: ignore[no-untyped-call]
            torch.cat(likely).reshape(len(shown), samples),
        )

    def _likely(self, result: Explanation, targets: Classes | Scores) -> Tensor:
        """The probability of the class; of callables, the score, where that is positive."""
        if isinstance(targets, Scores):
            return targets.score(result.logits)[0].float().clamp_min(0)
        assert result.targets is not None
        return result.logits.float().softmax(dim=1).gather(1, result.targets[:, None])[:, 0]
