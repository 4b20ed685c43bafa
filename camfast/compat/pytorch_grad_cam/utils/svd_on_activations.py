"""The first component of activations [N, C, h, w], as maps [N, h, w] float32; NaN counts as zero."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camfast.compat._missing import missing
from camfast.methods.kpca import kernel_component
from camfast.projection import centred, first_component

__getattr__ = missing(__name__)

Array = npt.NDArray[Any]

WITHOUT_GAMMA = ("linear", "cosine")
"""Kernels that have none."""


def get_2d_projection(activation_batch: Array) -> Array:
    """By principal components, with the sign of NumPy's singular vectors; see :func:`turned_as_theirs`."""
    return turned_as_theirs(_usable(activation_batch)).float().numpy()


def get_2d_projection_with_sign_correction(activation_batch: Array) -> Array:
    """The same, with the value of largest magnitude in each map positive; see
    :func:`camfast.projection.first_component`."""
    return first_component(_usable(activation_batch)).float().numpy()


def turned_as_theirs(maps: Tensor) -> Tensor:
    """The first component [M, *places] of maps [M, C, *places], as :func:`camfast.projection.first_component`, but with
    the sign that pytorch-grad-cam's has: whatever LAPACK makes of the matrix of places and channels.

    LAPACK need not be asked for all singular vectors, as they do: the first is the same.
    """
    kind = torch.promote_types(maps.dtype, torch.float32)
    rows, _ = centred(maps)
    varied = rows.flatten(1).ne(0).any(1).tolist()
    values = maps.detach().flatten(2).to("cpu", kind).numpy()
    components = np.zeros((len(values), *values.shape[2:]), values.dtype)
    for component, channels, varies in zip(components, values, varied, strict=True):
        if varies:
            component[:] = _component(channels) if np.isfinite(channels).all() else np.nan
    return torch.from_numpy(components).to(maps.device).reshape(len(maps), *maps.shape[2:])


def _component(channels: Array) -> Array:
    places = channels.transpose()
    places = places - places.mean(axis=0)
    with _one_blas_thread():
        axis = np.linalg.svd(places, full_matrices=False)[2][0]
        component: Array = places @ axis
    return component


def _one_blas_thread() -> AbstractContextManager[Any]:
    """NumPy's BLAS with one thread for a block: its others would go on spinning while the model runs the next time."""
    controller = _threadpools()
    return nullcontext() if controller is None else controller.limit(limits=1, user_api="blas")


@functools.cache
def _threadpools() -> Any:
    """What limits threads, from a package that comes with scikit-learn; None without it."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


def get_2d_projection_kernel(activation_batch: Array, kernel: str = "sigmoid", gamma: float | None = None) -> Array:
    """By kernel principal components, with the value of largest magnitude in each map positive; see
    :class:`camfast.KPCACAM`, also for the arguments."""
    gamma = None if kernel in WITHOUT_GAMMA else gamma
    return kernel_component(_usable(activation_batch), kernel, gamma).float().numpy()


def _usable(activations: Any) -> Tensor:
    tensor = torch.as_tensor(np.asarray(activations))
    return tensor.masked_fill(tensor.isnan(), 0)
