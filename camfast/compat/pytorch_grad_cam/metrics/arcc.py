"""Complexity, coherency and ROAD, and the three in one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam.metrics.road import ROADCombined
from camfast.metrics.similarity import pearson

__getattr__ = missing(__name__)

Array = npt.NDArray[Any]
Targets = Sequence[Callable[[Any], Any]]

_LEAST = 1e-8


def batch_pearson_coherency(A: Array, B: Array) -> Array:
    """Pearson's correlation of two batches [N, ...], sample by sample: [N]."""
    return pearson(torch.as_tensor(A), torch.as_tensor(B)).numpy()


class Complexity:
    """The mean heat of a pixel; see :func:`camfast.metrics.complexity`."""

    def __call__(self, grayscale_cams: Array) -> Array:
        """[N], of heatmaps [N, H, W]."""
        mean: Array = np.abs(grayscale_cams).reshape(len(grayscale_cams), -1).mean(axis=1)
        return mean


class Coherency:
    """How alike the heatmap is to that of the image times the heatmap; see :func:`camfast.metrics.coherency`."""

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: Array,
        targets: Targets,
        model: nn.Module,
        base_method: Callable[..., Array],
    ) -> Array:
        """[N] in [0, 1].

        Args:
            input_tensor: [N, C, H, W].
            grayscale_cams: heatmaps [N, H, W] in [0, 1].
            targets: one callable a sample.
            model: not looked at, as ``base_method`` has it.
            base_method: what made the heatmaps.
        """
        seen = input_tensor * torch.from_numpy(grayscale_cams)[:, None].to(input_tensor.device)
        again = base_method(input_tensor=seen, targets=targets)
        return (batch_pearson_coherency(again, grayscale_cams) + 1) / 2


class ARCC:
    """The harmonic mean of coherency, of 1 - complexity, and of twice the combined ROAD; see
    :func:`camfast.metrics.arcc`.

    Args:
        base_method: what made the heatmaps.
        road_percentiles: those of ROAD.
    """

    def __init__(self, base_method: Callable[..., Array], road_percentiles: Sequence[float] = (20, 40, 60, 80)) -> None:
        self.complexity = Complexity()
        self.coherency = Coherency()
        self.road = ROADCombined(percentiles=road_percentiles)
        self.base_method = base_method

    def __call__(self, input_tensor: Tensor, grayscale_cams: Array, targets: Targets, model: nn.Module) -> Array:
        """[N] in [0, 1]; arguments as for :class:`Coherency`."""
        plain = 1 - self.complexity(grayscale_cams)
        alike = self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method)
        road = (2 * self.road(input_tensor, grayscale_cams, targets, model)).clip(0, 1)
        inverse: Array = 1 / (alike + _LEAST) + 1 / (plain + _LEAST) + 1 / (road + _LEAST)
        return 3 / inverse
