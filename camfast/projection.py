"""The first principal component of feature maps: what EigenCAM and its relatives show."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from camfast._operands import accumulation_type

# A variation of fewer roundings than this about the mean is no variation.
_ROUNDINGS = 8
# Magnitudes that differ by less count as equal where the sign is chosen.
_TIE = 1e-5


def first_component(maps: Tensor) -> Tensor:
    """Every map's projection on its first principal component, which is where the channels vary together most.

    With ``X`` the matrix of positions × channels, less the mean of every channel, this is ``X v``, where ``v`` is the
    first right singular vector: the largest singular value times the first left one. The sign, which a singular vector
    has not, is such that the value of largest magnitude is positive, the first in reading order of several, as in
    equation 13 of Chung and Ying 2025 (https://doi.org/10.3390/app15137562). Where the two largest singular values are
    equal, every direction between theirs is a first component; the result is one of them.

    It is computed from the Gram matrix of the channels or of the positions, whichever are fewer. For the first
    component that is as well-conditioned as the singular value decomposition: an error grows with
    ``s1 / (s1 - s2)`` in both.

    Args:
        maps: [M, C, h, w], or with any other number of positions' dimensions; any floating dtype.

    Returns:
        [M, h, w]: float64 for float64, float32 for all else. Zeros where a map is the same at all positions, NaN where
        it is not finite.
    """
    with torch.autocast(maps.device.type, enabled=False):
        rows, size = centred(maps)
        if rows.shape[1] < rows.shape[2]:
            _, axis = leading(rows @ rows.mT)
            scores = (axis[:, None] @ rows)[:, 0]
        else:
            value, axis = leading(rows.mT @ rows)
            scores = axis * value.clamp_min(0).sqrt()[:, None]
        return (turned(scores) * size[:, None]).reshape(len(maps), *maps.shape[2:])


def centred(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [M, C, *positions] as rows [M, C, positions], less the mean of each row, over the largest magnitude left in
    a map, so that squares neither overflow nor vanish; and these magnitudes [M].

    Rows that are their mean but for rounding become zeros.
    """
    rows = maps.flatten(2).to(accumulation_type(maps.dtype))
    mean = rows.mean(dim=2, keepdim=True)
    rows = rows - mean
    size = _largest(rows)
    unit = size.clamp_min(torch.finfo(rows.dtype).tiny)[:, None, None]
    rows /= unit
    rounding = _ROUNDINGS * torch.finfo(rows.dtype).eps * math.sqrt(rows.shape[2]) * (mean / unit).abs()
    rows *= ~(torch.linalg.vector_norm(rows, dim=2, keepdim=True) <= rounding)
    return rows, size


def turned(scores: Tensor) -> Tensor:
    """Scores [M, positions] with the sign that makes the one of largest magnitude positive, the first of several."""
    sizes = scores.abs()
    largest = (sizes >= sizes.amax(dim=1, keepdim=True) * (1 - _TIE)).to(torch.uint8).argmax(dim=1, keepdim=True)
    return scores * scores.gather(1, largest).sign()


def leading(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of symmetric matrices, and its eigenvector of length one.

    Args:
        matrices: [M, n, n], float32 or float64.

    Returns:
        Values [M] and vectors [M, n]; NaN for a matrix that is not finite.
    """
    lost = ~_largest(matrices).isfinite()
    if bool(lost.any()):  # which the decomposition of a whole batch refuses
        matrices = matrices.masked_fill(lost[:, None, None], 0)
    found = None if matrices.shape[1] <= _DIRECT else _by_steps(matrices)
    if found is None:
        values, vectors = torch.linalg.eigh(matrices)
        found = values[:, -1], vectors[:, :, -1]
    return found[0].masked_fill(lost, torch.nan), found[1].masked_fill(lost[:, None], torch.nan)


# Larger matrices are multiplied by a few vectors rather than decomposed.
_DIRECT = 100
_STEPS = 64
_STEPS_A_CHECK = 8
# How far a vector may be from the eigenvector: the sine of the angle between them, in roundings.
_ROUNDINGS_OF_ANGLE = 1000


def _by_steps(matrices: Tensor) -> tuple[Tensor, Tensor] | None:
    """By Lanczos' method: the best there is among combinations of a vector, its product with the matrix, the product of
    that, and so on. None where the largest eigenvalues lie so close that it would take many.
    """
    samples, side = matrices.shape[:2]
    basis, products = matrices.new_zeros((2, samples, _STEPS, side))
    angle = _ROUNDINGS_OF_ANGLE * torch.finfo(matrices.dtype).eps
    generator = torch.Generator().manual_seed(0)  # some vector that no data is orthogonal to
    start = torch.randn(side, generator=generator, dtype=matrices.dtype).to(matrices.device)
    vector = start.expand(samples, 1, side)  # rows, as they are multiplied much faster than columns
    for count in range(1, _STEPS + 1):
        basis[:, count - 1 : count] = vector = _orthonormal(vector, basis[:, : count - 1])
        products[:, count - 1 : count] = vector = vector @ matrices
        if count % _STEPS_A_CHECK == 0:
            values, weights = torch.linalg.eigh(basis[:, :count] @ products[:, :count].mT)
            value, weight = values[:, -1], weights[:, None, :, -1]
            found = (weight @ basis[:, :count])[:, 0]
            error = ((weight @ products[:, :count])[:, 0] - value[:, None] * found).norm(dim=1)
            if bool((error <= angle * (value - values[:, -2])).all()):
                return value, found
    return None


def _orthonormal(vector: Tensor, basis: Tensor) -> Tensor:
    """What is new in vectors [M, 1, n] over orthonormal ones [M, steps, n], of length one; zeros where nothing is."""
    new = vector
    for _ in range(2):  # once leaves too much of the others
        new = new - (new @ basis.mT) @ basis
    length = new.norm(dim=2, keepdim=True)
    return torch.where(length > 1e-5 * vector.norm(dim=2, keepdim=True), new / length, 0)


def _largest(matrices: Tensor) -> Tensor:
    """The largest magnitude in each of [M, m, n], [M]; NaN where there is one."""
    return torch.maximum(matrices.amax(dim=(1, 2)), -matrices.amin(dim=(1, 2)))
