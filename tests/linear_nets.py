"""Models whose scores can be worked out by hand."""

import torch
from torch import Tensor, nn


class SumNet(nn.Module):
    """Two logits: the sum of all pixels, and 0."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


class WeightedNet(nn.Module):
    """One convolution that sees everything: the logits are weighted sums of the pixels."""

    def __init__(self, side: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, classes, side, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)


FOUR = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
"""An image [1, 1, 2, 2] that is its own best heatmap for SumNet."""
