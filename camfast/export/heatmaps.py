"""From activations and gradients to heatmaps, as modules that TorchScript compiles."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from camfast.export.gradients import Seen
from camfast.tokens import Reading


class Explained(NamedTuple):
    """What an exported explainer gives."""

    heatmaps: Tensor
    """[N, H, W] float32 in [0, 1]."""
    logits: Tensor
    """[N, classes]."""
    targets: Tensor
    """[N] int64: the explained classes."""


class AsMaps(nn.Module):
    """Reads what a layer puts out as maps [N, C, h, w]; see :class:`camfast.tokens.Reading`."""

    def __init__(self, reading: Reading, size: tuple[int, ...]) -> None:
        """
        Args:
            reading: how it is one, for images of ``size``.
        """
        super().__init__()
        self.prefix = -1 if reading.prefix is None else reading.prefix
        self.channels_last = reading.channels_last
        self.grid = [int(cells) for cells in reading.grid]
        self.size = list(size)

    def forward(self, output: Tensor, height: int, width: int) -> Tensor:
        if self.prefix >= 0:
            rows, columns = self.grid_of(output.shape[1] - self.prefix, height, width)
            return output[:, self.prefix :].transpose(1, 2).reshape(output.shape[0], output.shape[2], rows, columns)
        return output.movedim(-1, 1) if self.channels_last else output

    def grid_of(self, tokens: int, height: int, width: int) -> tuple[int, int]:
        """The grid of images of another size: in proportion, rounded up or down."""
        rows, columns = self.grid[0] * height / self.size[0], self.grid[1] * width / self.size[1]
        for h in [math.floor(rows), math.ceil(rows)]:
            for w in [math.floor(columns), math.ceil(columns)]:
                if h * w == tokens:
                    return h, w
        raise ValueError(f"{tokens} tokens are no grid of images {height}×{width}")


class Reshaped(nn.Module):
    """A ``reshape_transform`` of the user's, as :class:`AsMaps`."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, output: Tensor, height: int, width: int) -> Tensor:
        result: Tensor = self.transform(output)
        return result


class Heatmaps(nn.Module):
    """A rule of :func:`camfast.ops.cam`, on what one layer put out."""

    def __init__(self, rule: str, relu: bool, as_maps: nn.Module) -> None:
        super().__init__()
        self.rule = rule
        self.relu = relu
        self.as_maps = as_maps

    def forward(self, seen: Seen, images: list[int], size: list[int]) -> Tensor:
        """Heatmaps of ``size`` (height, width), of images of another."""
        activations = self.as_maps(seen.activations, images[0], images[1])
        gradients, weights = seen.gradients, seen.weights
        if gradients is not None:
            gradients = self.as_maps(gradients, images[0], images[1])
        if weights is not None:
            weights = weights.to(torch.float64 if activations.dtype == torch.float64 else torch.float32)
        heatmaps, _ = torch.ops.camfast.cam(
            activations, gradients, weights, rule=self.rule, size=size, relu=self.relu, normalize=True
        )
        result: Tensor = heatmaps.float()
        return result


class Explain(nn.Module):
    """The whole of an explanation of images that are ready for the model."""

    size: list[int]

    def __init__(self, gradients: nn.Module, heatmaps: nn.Module, size: tuple[int, int] | None, guarded: bool) -> None:
        """
        Args:
            gradients: makes :class:`Seen` of images and classes.
            heatmaps: makes heatmaps of that.
            size: (height, width) of the heatmaps; None for that of the images.
            guarded: whether samples that are not finite have to be found in the images, as the copy of the model hides
                them.
        """
        super().__init__()
        self.gradients = gradients
        self.heatmaps = heatmaps
        self.size = [] if size is None else list(size)
        self.guarded = guarded

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Explained:
        images = [x.shape[2], x.shape[3]]
        seen = self.gradients(x, targets)
        heatmaps = self.heatmaps(seen, images, self.size if len(self.size) > 0 else images)
        if self.guarded:
            finite = x.flatten(1).sum(dim=1).isfinite()
            heatmaps = torch.where(finite[:, None, None], heatmaps, torch.zeros_like(heatmaps))
        return Explained(heatmaps, seen.logits, seen.targets)
