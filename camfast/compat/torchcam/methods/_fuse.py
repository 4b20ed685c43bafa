"""Maps of several layers brought to one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camfast.compat._missing import NamesNearest
from camfast.metrics import heatmaps


class Fusing(NamesNearest):
    """How an extractor fuses maps."""

    @classmethod
    def fuse_cams(cls, cams: list[Tensor], target_shape: tuple[int, int] | None = None) -> Tensor:
        """The maps of several layers as one: interpolated to one size, the largest value at each place.

        Args:
            cams: [N, h, w] by layer.
            target_shape: (height, width); None takes the largest of each.

        Returns:
            [N, height, width]; a map that is alone is returned as it is.

        Raises:
            TypeError: ``cams`` is no list of tensors.
            ValueError: it is empty.
        """
        check_cams(cams)
        if len(cams) == 1:
            return cams[0]
        shape = target_shape if isinstance(target_shape, tuple) else largest(cams)
        fused, *others = resized(cls._scale_cams(cams), shape)
        for cam in others:
            fused = torch.maximum(fused, cam)
        return fused

    @staticmethod
    def _scale_cams(cams: list[Tensor]) -> list[Tensor]:
        return cams


def check_cams(cams: Any) -> None:
    """Raises for what is no list of at least one tensor.

    Raises:
        TypeError: no list, or other things in it.
        ValueError: an empty list.
    """
    if not isinstance(cams, list) or any(not isinstance(cam, Tensor) for cam in cams):
        raise TypeError(f"cams is a {type(cams).__name__}; expected a list of tensors [N, h, w], one a layer")
    if len(cams) == 0:
        raise ValueError("cams is an empty list; expected a tensor [N, h, w] for each layer")


def largest(cams: Sequence[Tensor]) -> tuple[int, ...]:
    """The greatest length along each axis of maps [N, ...]."""
    return tuple(map(max, zip(*[cam.shape[1:] for cam in cams], strict=True)))


def resized(cams: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
    """Maps [N, ...] at one size: interpolated linearly along each axis, with half-pixel centres."""
    return [heatmaps.resized(cam, size) for cam in cams]
