"""What an engine returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Explanation:
    """Heatmaps of a batch and what they were made from. All tensors are on the device of the input."""

    heatmaps: Tensor
    """[N, H, W] float32 in [0, 1]: how much each pixel speaks for the target."""
    logits: Tensor
    """[N, classes]: the output of the model."""
    targets: Tensor | None
    """[N] int64: the explained class of every sample; None where the targets were callables."""
    ranges: Tensor
    """[N, 2] float32: minimum and maximum of every map before normalization; NaN where a map was not finite."""

    def __len__(self) -> int:
        return len(self.heatmaps)

    def __repr__(self) -> str:
        samples, height, width = self.heatmaps.shape
        if self.targets is None:
            explained = "callables"
        else:
            shown = ", ".join(map(str, self.targets[:8].tolist()))
            explained = f"classes [{shown}{', …' if samples > 8 else ''}]"
        maps = "1 heatmap" if samples == 1 else f"{samples} heatmaps"
        return f"Explanation({maps} of {height}×{width} on {self.heatmaps.device}, targets: {explained})"
