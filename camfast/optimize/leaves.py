"""Images of dead leaves: discs of all sizes and colors, one over another, with edges and flat parts as photos have
them. What a network does with them is, map by map, much like what it does with photos, which noise is not.

(Lee, Mumford, Huang, Occlusion Models for Natural Images: A Statistical Study of a Scale-Invariant Dead Leaves Model,
IJCV 2001.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

LEAVES = 600
"""On each image: nearly nothing of what is behind them is left."""
SMALLEST = 2.0
"""Radius in pixels; the largest is a third of the longer side. Their logarithms are evenly distributed."""
IMAGES = 8
"""That show how large values become."""
FLAT = 0.1
"""A standard deviation, over how far images reach from zero."""


def not_flat(images: Tensor) -> Tensor:
    """Which of some images [N, C, H, W] show enough to tell what a network does with others: the numbers of these.

    Those of the black that a film begins with do not.
    """
    spread = images.flatten(1).std(1)
    return (spread > FLAT * reach(images)).nonzero().flatten()


def leaves_like(images: Tensor) -> Iterator[Tensor]:
    """Batches of dead leaves of the size of some images, no larger than theirs.

    They reach as far from zero as those images do, in both directions, or to 1 where those are zero. What was
    normalized lies on either side of zero, black about as far as white.

    Args:
        images: [N, C, H, W] float32.
    """
    count, channels, height, width = images.shape
    leaves = (dead_leaves(IMAGES, channels, (height, width)) * 2 - 1) * reach(images)
    return iter(torch.split(leaves, min(count, IMAGES)))


def reach(images: Tensor) -> float:
    """How far images are from zero; 1 where they are zero."""
    return float(images.abs().max()) or 1.0


def dead_leaves(samples: int, channels: int, size: tuple[int, int]) -> Tensor:
    """The same images every time.

    Returns:
        [samples, channels, *size] float32 in [0, 1].
    """
    random = torch.Generator().manual_seed(0)
    images = torch.full((samples, channels, *size), 0.5)
    height, width = size
    largest = max(max(size) / 3, SMALLEST)
    for image in images:
        radii = SMALLEST * (largest / SMALLEST) ** torch.rand(LEAVES, generator=random)
        centers = torch.rand(LEAVES, 2, generator=random) * torch.tensor([height, width])
        gray = 0.45 + 0.25 * torch.randn(LEAVES, 1, generator=random)
        colors = (gray + 0.08 * torch.randn(LEAVES, channels, generator=random)).clamp(0, 1)
        for radius, (y, x), color in zip(radii.tolist(), centers.tolist(), colors, strict=True):
            top, left = max(math.floor(y - radius), 0), max(math.floor(x - radius), 0)
            part = image[:, top : math.ceil(y + radius) + 1, left : math.ceil(x + radius) + 1]
            rows = torch.arange(top, top + part.shape[1])[:, None] - y
            columns = torch.arange(left, left + part.shape[2]) - x
            inside = rows**2 + columns**2 < radius**2
            part.copy_(torch.where(inside, color[:, None, None], part))
    return images
