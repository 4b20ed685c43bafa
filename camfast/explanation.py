"""What an engine returns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from camfast.outputs import PerSample


class MapForm(NamedTuple):
    """In what form heatmaps are wanted."""

    size: tuple[int, ...] | None
    """(height, width), or (depth, height, width) of volumes; None for that of the layer."""
    normalize: bool
    """Whether each is stretched to [0, 1]."""


@dataclass(frozen=True)
class Explanation:
    """Heatmaps of a batch and what they were made from. All tensors are on the device of the input."""

    heatmaps: Tensor
    """[N, H, W] or, for K targets, [N, K, H, W] float32 in [0, 1]: how much each pixel speaks for the target. Not
    stretched to [0, 1] with ``normalize=False``. Of volumes [N, D, H, W], or [N, K, D, H, W]."""
    logits: Tensor
    """[N, classes]: the output of the model, without its graph. Of a model that returns no tensor but a list with an
    entry a sample (a detector), that list."""
    targets: Tensor | None
    """[N] or [N, K] int64: the explained classes of every sample; None where the targets were callables."""
    ranges: Tensor
    """[N, 2] or [N, K, 2] float32: minimum and maximum of every map before normalization; NaN where not finite."""

    def __len__(self) -> int:
        return len(self.heatmaps)

    def part(self, begin: int, end: int) -> Explanation:
        """That of some of the samples; the memory is shared."""
        return self._each(lambda tensor: tensor[begin:end])

    def map(self, function: Callable[[Tensor], Tensor]) -> Explanation:
        """With every tensor replaced."""
        if isinstance(self.logits, PerSample):
            return replace(self._each(function, logits=False), logits=self.logits.map(function))
        return self._each(function)

    def _each(self, function: Callable[[Tensor], Tensor], logits: bool = True) -> Explanation:
        targets = None if self.targets is None else function(self.targets)
        output = function(self.logits) if logits else self.logits
        return Explanation(function(self.heatmaps), output, targets, function(self.ranges))

    def without(self, samples: Tensor) -> Explanation:
        """With maps of zeros, and ranges of NaN, for some of the samples: a mask [N] on the host."""
        if not bool(samples.any()):
            return self
        heatmaps, ranges = self.heatmaps.clone(), self.ranges.clone()
        heatmaps[samples], ranges[samples] = 0, torch.nan
        return replace(self, heatmaps=heatmaps, ranges=ranges)

    @staticmethod
    def joined(parts: Sequence[Explanation]) -> Explanation:
        """One explanation of the samples of several."""
        targets = [part.targets for part in parts if part.targets is not None]
        return Explanation(
            torch.cat([part.heatmaps for part in parts]),
            _joined([part.logits for part in parts]),
            torch.cat(targets) if targets else None,
            torch.cat([part.ranges for part in parts]),
        )

    def __repr__(self) -> str:
        samples, size = len(self.heatmaps), "×".join(map(str, self.heatmaps.shape[self.ranges.dim() - 1 :]))
        if self.targets is None:
            explained = "callables"
        else:
            shown = ", ".join(map(str, self.targets[:8].tolist()))
            explained = f"classes [{shown}{', …' if samples > 8 else ''}]"
        maps = "1 heatmap" if samples == 1 else f"{samples} heatmaps"
        if self.ranges.dim() == 3:
            maps = f"{samples} × {self.heatmaps.shape[1]} heatmaps"
        return f"Explanation({maps} of {size} on {self.heatmaps.device}, targets: {explained})"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the heatmaps, small, the first ones of many."""
        from camfast.plots.notebook import png_of  # which knows explanations

        return png_of(self)


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    if isinstance(outputs[0], PerSample):
        return cast(Tensor, PerSample(itertools.chain.from_iterable(outputs)))
    return torch.cat(list(outputs))
