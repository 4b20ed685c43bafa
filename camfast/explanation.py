"""What an engine returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class MapForm(NamedTuple):
    """In what form heatmaps are wanted."""

    size: tuple[int, int] | None
    """(height, width); None for that of the layer."""
    normalize: bool
    """Whether each is stretched to [0, 1]."""


@dataclass(frozen=True)
class Explanation:
    """Heatmaps of a batch and what they were made from. All tensors are on the device of the input."""

    heatmaps: Tensor
    """[N, H, W] or, for K targets, [N, K, H, W] float32 in [0, 1]: how much each pixel speaks for the target. Not
    stretched to [0, 1] with ``normalize=False``."""
    logits: Tensor
    """[N, classes]: the output of the model."""
    targets: Tensor | None
    """[N] or [N, K] int64: the explained classes of every sample; None where the targets were callables."""
    ranges: Tensor
    """[N, 2] or [N, K, 2] float32: minimum and maximum of every map before normalization; NaN where not finite."""

    def __len__(self) -> int:
        return len(self.heatmaps)

    def part(self, begin: int, end: int) -> Explanation:
        """That of some of the samples; the memory is shared."""
        return self.map(lambda tensor: tensor[begin:end])

    def map(self, function: Callable[[Tensor], Tensor]) -> Explanation:
        """With every tensor replaced."""
        targets = None if self.targets is None else function(self.targets)
        return Explanation(function(self.heatmaps), function(self.logits), targets, function(self.ranges))

    @staticmethod
    def joined(parts: Sequence[Explanation]) -> Explanation:
        """One explanation of the samples of several."""
        targets = [part.targets for part in parts if part.targets is not None]
        return Explanation(
            torch.cat([part.heatmaps for part in parts]),
            torch.cat([part.logits for part in parts]),
            torch.cat(targets) if targets else None,
            torch.cat([part.ranges for part in parts]),
        )

    def __repr__(self) -> str:
        samples, height, width = len(self.heatmaps), *self.heatmaps.shape[-2:]
        if self.targets is None:
            explained = "callables"
        else:
            shown = ", ".join(map(str, self.targets[:8].tolist()))
            explained = f"classes [{shown}{', …' if samples > 8 else ''}]"
        maps = "1 heatmap" if samples == 1 else f"{samples} heatmaps"
        if self.heatmaps.dim() == 4:
            maps = f"{samples} × {self.heatmaps.shape[1]} heatmaps"
        return f"Explanation({maps} of {height}×{width} on {self.heatmaps.device}, targets: {explained})"
