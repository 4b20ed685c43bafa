"""ROAD: scores without the hottest or the coldest pixels, which are filled from their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from camfast.compat._missing import NamesNearest, missing
from camfast.compat.pytorch_grad_cam.metrics.perturbation_confidence import (
    PERCENTILES,
    Array,
    AveragerAcrossThresholds,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from camfast.metrics.infill import fill

__getattr__ = missing(__name__)

neighbors_weights = [
    ((down, right), 1 / 12 if down and right else 1 / 6) for right in (1, 0, -1) for down in (1, 0, -1) if down or right
]
"""What each neighbour of a pixel counts, by where it lies."""


class NoisyLinearImputer(NamesNearest):
    """Fills pixels with the weighted mean of their neighbours, and adds noise; see :func:`camfast.metrics.road`.

    Args:
        noise: its standard deviation; it comes from PyTorch's random numbers.
        weighting: of the neighbours; there is one.

    Raises:
        ValueError: another weighting.
    """

    _nearest: ClassVar = {
        "add_offset_to_indices": "__call__, which solves the system",
        "setup_sparse_system": "__call__, which solves the system",
    }

    def __init__(self, noise: float = 0.01, weighting: Sequence[Any] = neighbors_weights) -> None:
        if dict(weighting) != dict(neighbors_weights):
            raise ValueError("weighting differs from neighbors_weights, the only one that there is; leave it out")
        self.noise = noise
        self.weighting = weighting

    def __call__(self, img: Tensor, mask: Tensor) -> Tensor:
        """An image [C, H, W], filled where a mask [H, W] is 0."""
        return self.of_batch(img[None], mask[None])[0]

    def of_batch(self, images: Tensor, masks: Tensor) -> Tensor:
        """Images [N, C, H, W], likewise."""
        holes = masks == 0
        filled = fill(images, holes).flatten(2)
        for image, hole in zip(filled, holes.flatten(1), strict=True):
            image[:, hole] += self.noise * torch.randn(len(image), int(hole.sum())).to(image)
        return filled.reshape(images.shape)


class ROADMostRelevantFirst(PerturbationConfidenceMetric):
    """The change of the score without the hottest pixels: those from a percentile of the heat on."""

    def __init__(self, percentile: float | str = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(PerturbationConfidenceMetric):
    """The change of the score without the coldest pixels."""

    def __init__(self, percentile: float | str = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean of :class:`ROADMostRelevantFirst` over percentiles."""

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean of :class:`ROADLeastRelevantFirst` over percentiles."""

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """Half of least relevant first less most relevant first, averaged over percentiles: higher is better."""

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        self.percentiles = percentiles
        self.morf_averager = ROADMostRelevantFirstAverage(percentiles)
        self.lerf_averager = ROADLeastRelevantFirstAverage(percentiles)

    def __call__(
        self, input_tensor: Tensor, cams: Array, targets: Sequence[Callable[[Any], Any]], model: nn.Module
    ) -> Array:
        """Scores float32 [N]; arguments as for :class:`PerturbationConfidenceMetric`."""
        least = self.lerf_averager(input_tensor, cams, targets, model)
        most = self.morf_averager(input_tensor, cams, targets, model)
        return (least - most) / 2
