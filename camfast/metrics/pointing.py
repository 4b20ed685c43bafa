"""The pointing game: does the hottest pixel lie on the object?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camfast.explainer import is_size
from camfast.metrics.heatmaps import Heatmaps, Maps, as_tensor, check_heatmaps
from camfast.metrics.result import Scores, only_where
from camfast.targets import is_sequence


def pointing_game(
    heatmaps: Heatmaps,
    *,
    boxes: Any = None,
    masks: Any = None,
    size: tuple[int, int] | None = None,
    tolerance: float = 15,
) -> Scores:
    """The pointing game (Zhang et al. 2016, excitation backprop, https://arxiv.org/abs/1608.00507): higher is better.

    A heatmap hits where its hottest pixel lies on an object of the class, or at most 15 pixels off one, as in the
    paper. The first in reading order counts where several are the hottest; a constant heatmap points nowhere and
    misses.

    Args:
        heatmaps: [N, H, W], a tensor or an array, of any size.
        boxes: the objects of every sample: N tensors or lists [K, 4], or one [N, 4], of (left, top, right, bottom) in
            pixels, the last ones included.
        masks: or where they are: [N, H, W], above 0 on an object.
        size: (height, width) of the images that boxes are measured in; None takes that of the heatmaps. Masks have
            their own.
        tolerance: in pixels of that size.

    Returns:
        Values [N]: 1 for a hit, 0 for a miss; the mean is the accuracy of the paper (for one class). NaN where a
        heatmap is not finite.

    Raises:
        TypeError, ValueError: both or neither of boxes and masks, another shape, a sample without an object.
    """
    if (boxes is None) == (masks is None):
        raise ValueError("boxes and masks say where the objects are; give one of them")
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance={tolerance!r}; expected a number of pixels of at least 0")
    if size is not None and not is_size(size, [2]):
        raise ValueError(f"size={size!r}; expected (height, width), two whole numbers of at least 1, or None")
    given = as_tensor(heatmaps)
    if given.dim() != 3:
        raise ValueError(f"heatmaps has shape {list(given.shape)}; expected [N, H, W]")
    if masks is not None:
        inside = _check_masks(masks, len(given)).to(given.device)
        return _scored(_maps(given, inside.shape[1:]), lambda x, y: _off_masks(inside, x, y), tolerance)
    found, owners = _check_boxes(boxes, len(given))
    edges, of = found.to(given.device), owners.to(given.device)
    return _scored(_maps(given, size or given.shape[1:]), lambda x, y: _off_boxes(edges, of, x, y), tolerance)


def _maps(given: Tensor, size: Sequence[int]) -> Maps:
    return check_heatmaps(given, len(given), tuple(size), given.device)


def _scored(maps: Maps, distance: Any, tolerance: float) -> Scores:
    flat = maps.flat
    place = (flat == flat.amax(1, keepdim=True)).int().argmax(1)  # the first, which argmax alone does not promise
    width = maps.values.shape[2]
    off = distance(place % width, place // width)
    points = flat.amax(1) > flat.amin(1)
    hits = ((off <= tolerance) & points).to(flat.dtype)
    return Scores("pointing game", only_where(maps.finite, hits), higher_is_better=True)


def _off_boxes(edges: Tensor, owners: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How far points [N] are from the nearest box of theirs, of [B, 4], which belong to samples [B]."""
    left, top, right, bottom = edges.unbind(1)
    px, py = x[owners], y[owners]
    zero = torch.zeros_like(left)
    across = torch.maximum(torch.maximum(left - px, px - right), zero)
    down = torch.maximum(torch.maximum(top - py, py - bottom), zero)
    nearest = torch.full((len(x),), math.inf, dtype=edges.dtype, device=edges.device)
    return nearest.scatter_reduce(0, owners, torch.hypot(across, down), "amin")


def _off_masks(inside: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How far points [N] are from the nearest pixel of theirs that is inside [N, H, W]."""
    rows = torch.arange(inside.shape[1], device=inside.device)[None, :, None] - y[:, None, None]
    columns = torch.arange(inside.shape[2], device=inside.device)[None, None, :] - x[:, None, None]
    squares = (rows**2 + columns**2).double().masked_fill(~inside, math.inf)
    return squares.flatten(1).amin(1).sqrt()


def _check_masks(masks: Any, samples: int) -> Tensor:
    given = torch.from_numpy(masks) if isinstance(masks, np.ndarray) else masks
    if not isinstance(given, Tensor):
        raise TypeError(f"masks is a {type(masks).__name__}; expected a tensor or an array [N, H, W]")
    if given.dim() != 3 or len(given) != samples:
        raise ValueError(f"masks has shape {list(given.shape)} for {samples} heatmaps; expected [{samples}, H, W]")
    inside = given > 0
    empty = (~inside.flatten(1).any(1)).nonzero()
    if len(empty):
        raise ValueError(f"masks[{int(empty[0])}] is empty; leave out samples without an object")
    return inside


def _check_boxes(boxes: Any, samples: int) -> tuple[Tensor, Tensor]:
    """All boxes [B, 4] in float64, and the sample of each [B]."""
    if not is_sequence(boxes) or len(boxes) != samples:
        given = f"{len(boxes)} entries" if is_sequence(boxes) else f"type {type(boxes).__name__}"
        raise ValueError(f"boxes has {given} for {samples} heatmaps; expected the boxes of every sample")
    each = [_boxes_of(f"boxes[{index}]", entry) for index, entry in enumerate(boxes)]
    owners = [torch.full((len(found),), index) for index, found in enumerate(each)]
    return torch.cat(each), torch.cat(owners)


def _boxes_of(name: str, entry: Any) -> Tensor:
    """Those of one sample, [K, 4]."""
    try:
        found = torch.as_tensor(entry, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name}={entry!r}; expected [K, 4] numbers") from None
    found = found[None] if found.dim() == 1 and len(found) else found
    if found.numel() == 0:
        raise ValueError(f"{name} is empty; leave out samples without an object")
    if found.dim() != 2 or found.shape[1] != 4:
        raise ValueError(f"{name} has shape {list(found.shape)}; expected [K, 4]")
    if not bool((found[:, :2] <= found[:, 2:]).all()):
        raise ValueError(f"{name} has a right or bottom edge before the left or top one: {found.tolist()}")
    return found
