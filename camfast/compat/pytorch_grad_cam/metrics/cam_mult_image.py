"""Scores when only what is hot is left of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from camfast.compat._missing import missing
from camfast.compat.pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric

__getattr__ = missing(__name__)


def multiply_tensor_with_cam(input_tensor: Tensor, cam: Tensor) -> Tensor:
    """An image [C, H, W] times its heatmap [H, W]."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """The score of the image times its heatmap, less that of the image."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """What the score loses; 0 where it gains."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`PerturbationConfidenceMetric.__call__`."""
        return np.maximum(-super().__call__(*args, **kwargs), 0)


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """1 where the score gains, else 0."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`PerturbationConfidenceMetric.__call__`."""
        return np.float32(super().__call__(*args, **kwargs) > 0)
