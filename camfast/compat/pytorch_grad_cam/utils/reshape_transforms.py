"""Feature maps [N, C, h, w] of what layers put out that is none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camfast.compat._missing import missing

__getattr__ = missing(__name__)


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Of tokens [N, 1 + height * width, C], the first of which is that of the class."""
    return swinT_reshape_transform(tensor[:, 1:], height, width)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:
    """Of tokens [N, height * width, C]."""
    return tensor.reshape(len(tensor), height, width, tensor.shape[2]).movedim(3, 1)


def fasterrcnn_reshape_transform(x: Mapping[str, Tensor]) -> Tensor:
    """Of a feature pyramid: the magnitudes of all maps, at the size of ``x["pool"]``, one after the other."""
    size = x["pool"].shape[-2:]
    return torch.cat([interpolate(maps.abs(), size, mode="bilinear") for maps in x.values()], dim=1)
