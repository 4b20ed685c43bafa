"""The first component of activations [N, C, h, w], as maps [N, h, w] float32; NaN counts as zero.

The value of largest magnitude in each is positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camfast.compat._missing import missing
from camfast.methods.kpca import kernel_component
from camfast.projection import first_component

__getattr__ = missing(__name__)

Array = npt.NDArray[Any]

WITHOUT_GAMMA = ("linear", "cosine")
"""Kernels that have none."""


def get_2d_projection(activation_batch: Array) -> Array:
    """By principal components; see :func:`camfast.projection.first_component`."""
    return first_component(_usable(activation_batch)).float().numpy()


def get_2d_projection_with_sign_correction(activation_batch: Array) -> Array:
    """The same: :func:`get_2d_projection` has a sign that does not depend on chance, too."""
    return get_2d_projection(activation_batch)


def get_2d_projection_kernel(activation_batch: Array, kernel: str = "sigmoid", gamma: float | None = None) -> Array:
    """By kernel principal components; see :class:`camfast.KPCACAM`, also for the arguments."""
    gamma = None if kernel in WITHOUT_GAMMA else gamma
    return kernel_component(_usable(activation_batch), kernel, gamma).float().numpy()


def _usable(activations: Any) -> Tensor:
    tensor = torch.as_tensor(np.asarray(activations))
    return tensor.masked_fill(tensor.isnan(), 0)
