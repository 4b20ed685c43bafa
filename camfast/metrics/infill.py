"""Fills pixels of images from their neighbours: the linear imputation of ROAD, by multigrid and conjugate gradients.

Every filled pixel is the weighted mean of its neighbours in the image, 2 for one beside it and 1 for one at its corner
(1/6 and 1/12 of the whole). That is a linear system in the filled pixels, symmetric and positive, much like a
discretized Laplace equation: one multigrid cycle with Jacobi smoothing takes away most of what is wrong at every scale,
and conjugate gradients take care of the rest. About ten cycles suffice, whatever the size and form of the hole. All
images, holes and channels are solved together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

_CYCLES = 60
"""At most; holes of all forms take 5 to 15."""
_COARSEST = 4
"""Side of the smallest grid."""
_SWEEPS = 4
"""Of the smoother on that grid, where nothing is coarser."""
_CHUNK = 2**20
"""Values that are solved together on the CPU: more fall out of its caches."""


def fill(images: Tensor, holes: Tensor) -> Tensor:
    """Images with their holes filled.

    An image that is one hole becomes its own mean, in every channel: any constant would solve the system.

    Args:
        images: [B, C, H, W], floating. Half precision is computed in float32.
        holes: [B, H, W] bool, True where a pixel is to be filled.

    Returns:
        [B, C, H, W] of the same dtype; pixels outside of the holes as they were. The residual is at most 1e-6 of what
        it was at the start (1e-12 in float64).
    """
    exact = images if images.dtype == torch.float64 else images.float()
    at_once = len(images)
    if images.device.type == "cpu" and len(images):
        at_once = max(_CHUNK // exact[0].numel(), 1)
    # A caller's autocast would compute in half precision.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        parts = zip(torch.split(exact, at_once), torch.split(holes, at_once), strict=True)
        filled = [_solved(some, where) for some, where in parts]
    return torch.cat(filled).to(images.dtype) if filled else images.clone()


@dataclass
class _Grid:
    """The system at one scale."""

    hole: Tensor
    """[B, 1, h, w]: 1 where a value is sought, else 0."""
    diagonal: Tensor
    """[1, 1, h, w]: the weights of all neighbours in the image, and 4 more, as those that :func:`_box` adds."""
    inverse: Tensor
    """[B, 1, h, w]: that of the diagonal of the system in the hole, else 0."""
    framed: Tensor
    """[B, C, h + 2, w + 2]: the values sought, in a frame of zeros."""

    @property
    def values(self) -> Tensor:
        return self.framed[..., 1:-1, 1:-1]


def _solved(images: Tensor, holes: Tensor) -> Tensor:
    """Preconditioned conjugate gradients. The cycle is not quite symmetric, so its directions are made conjugate by
    the formula of Polak and Ribière.
    """
    known = ~holes.flatten(1).all(1)
    grids = _grids((holes & known[:, None, None]).to(images.dtype), images.shape[1])
    finest = grids[0]
    start = _started(images, holes[:, None])
    residual = _box(_framed(start)).sub_(finest.diagonal * start).mul_(finest.hole)
    enough = _dot(residual, residual) * (1e-12 if images.dtype == torch.float64 else 1e-6) ** 2
    framed = torch.zeros_like(finest.framed)
    direction = framed[..., 1:-1, 1:-1]
    solution = torch.zeros_like(start)
    tiny = torch.finfo(images.dtype).tiny
    corrected = _cycle(grids, 0, residual)
    direction.copy_(corrected)
    for _ in range(_CYCLES):
        weight = _dot(residual, corrected).clamp_min(tiny)
        image = _box(framed).mul_(finest.hole).neg_().addcmul_(finest.diagonal, direction)
        step = weight / _dot(direction, image).clamp_min(tiny)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        if not bool((_dot(residual, residual) > enough).any()):
            break
        corrected = _cycle(grids, 0, residual)
        torch.addcmul(corrected, -step * _dot(corrected, image) / weight, direction, out=direction)
    return start.add_(solution)


def _started(images: Tensor, holes: Tensor) -> Tensor:
    """With holes at the mean of what is known in the image, or of all of it where nothing is."""
    known = (~holes).to(images.dtype)
    known = torch.where(known.amax((2, 3), keepdim=True) > 0, known, torch.ones_like(known))
    mean = (images * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    return torch.where(holes, mean, images)


def _grids(hole: Tensor, channels: int) -> list[_Grid]:
    """From the finest to the coarsest. A pixel of the next is in the hole where all four that it stands for are."""
    grids = []
    while True:
        samples, height, width = hole.shape
        diagonal = _box(_framed(hole.new_ones(1, 1, height, width)))
        inverse = hole[:, None] / (diagonal - 4).clamp_min(1)
        framed = hole.new_zeros(samples, channels, height + 2, width + 2)
        grids.append(_Grid(hole[:, None], diagonal, inverse, framed))
        if min(height, width) <= _COARSEST:
            return grids
        even = pad(hole[:, None], (0, width % 2, 0, height % 2), mode="replicate")
        rows = torch.minimum(even[..., ::2, :], even[..., 1::2, :])
        hole = torch.minimum(rows[..., ::2], rows[..., 1::2])[:, 0]


def _cycle(grids: list[_Grid], level: int, residual: Tensor) -> Tensor:
    """An approximate solution for a residual: smoothed, corrected by the coarser grids, and smoothed."""
    grid = grids[level]
    values = torch.mul(residual, grid.inverse, out=grid.values)
    if level + 1 == len(grids):
        for _ in range(_SWEEPS):
            _smooth(grid, residual)
        return values
    # What a first sweep from zero leaves is what the neighbours put in.
    left = _box(grid.framed).sub_(values, alpha=4).mul_(grid.hole)
    coarser = grids[level + 1]
    correction = _cycle(grids, level + 1, _summed(left).mul_(coarser.hole))
    values.addcmul_(grid.hole, _interpolated(correction, values.shape[2], values.shape[3]), value=1 / 16)
    _smooth(grid, residual)
    return values


def _smooth(grid: _Grid, residual: Tensor) -> None:
    """One sweep of Jacobi's method, which at this stencil leaves a third of what is rough."""
    torch.mul(_box(grid.framed).add_(residual).sub_(grid.values, alpha=4), grid.inverse, out=grid.values)


def _box(framed: Tensor) -> Tensor:
    """Sums over 3×3 with the weights 1, 2, 1 times 1, 2, 1: those of the neighbours, and 4 for the pixel itself."""
    rows = framed[..., :-2] + framed[..., 2:]
    rows.add_(framed[..., 1:-1], alpha=2)
    sums = rows[..., :-2, :] + rows[..., 2:, :]
    return sums.add_(rows[..., 1:-1, :], alpha=2)


def _summed(residual: Tensor) -> Tensor:
    """The residual on the next coarser grid: sums over 2×2."""
    height, width = residual.shape[2:]
    if height % 2 or width % 2:
        residual = pad(residual, (0, width % 2, 0, height % 2))
    rows = residual[..., ::2, :] + residual[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]


def _interpolated(coarse: Tensor, height: int, width: int) -> Tensor:
    """16 times the values on the next finer grid, bilinear between the centres of pixels."""
    framed = pad(coarse, (1, 1, 1, 1), mode="replicate")
    rows = coarse.new_empty(*coarse.shape[:2], 2 * coarse.shape[2], coarse.shape[3] + 2)
    middle = framed[..., 1:-1, :] * 3
    torch.add(middle, framed[..., :-2, :], out=rows[..., ::2, :])
    torch.add(middle, framed[..., 2:, :], out=rows[..., 1::2, :])
    fine = coarse.new_empty(*coarse.shape[:2], 2 * coarse.shape[2], 2 * coarse.shape[3])
    middle = rows[..., 1:-1] * 3
    torch.add(middle, rows[..., :-2], out=fine[..., ::2])
    torch.add(middle, rows[..., 2:], out=fine[..., 1::2])
    return fine[..., :height, :width]


def _framed(values: Tensor) -> Tensor:
    return pad(values, (1, 1, 1, 1))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """[B, C, 1, 1]."""
    return (one * other).sum((2, 3), keepdim=True)
