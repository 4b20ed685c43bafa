"""What a method returns that speaks about every value of the images, and not about places alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from camfast.explanation import Explanation


@dataclass(frozen=True, repr=False)
class Attribution(Explanation):
    """An explanation whose heatmaps are the largest magnitude over the channels of its attributions."""

    attributions: Tensor
    """[N, C, H, W] or, for K targets, [N, K, C, H, W] float32, signed, at the size of the images: how much each of
    their values speaks for the target. Zeros for a sample in which something is not finite."""

    def without(self, samples: Tensor) -> Attribution:
        """As of any explanation, and with attributions of zero for these samples."""
        attributions = self.attributions.clone()
        attributions[samples] = 0
        return _with_attributions(super().without(samples), attributions)

    @staticmethod
    def joined(parts: Sequence[Explanation]) -> Attribution:
        """One attribution of the samples of several."""
        attributions = torch.cat([part.attributions for part in parts if isinstance(part, Attribution)])
        return _with_attributions(Explanation.joined(parts), attributions)

    def _each(self, function: Callable[[Tensor], Tensor], logits: bool = True) -> Attribution:
        return _with_attributions(super()._each(function, logits), function(self.attributions))


def _with_attributions(explained: Explanation, attributions: Tensor) -> Attribution:
    if isinstance(explained, Attribution):
        return replace(explained, attributions=attributions)
    return Attribution(explained.heatmaps, explained.logits, explained.targets, explained.ranges, attributions)
