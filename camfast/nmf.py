"""Non-negative matrix factorization: a few parts, none negative, that add up to a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Instead of zero, at which a part would stay for good.
_FLOOR = 1e-12
_ROUNDS = 400
# Until the parts have found their places; sooner, long steps lead astray.
_ROUNDS_TO_SETTLE = 5
# Over the parts, for the products with the matrix that they share: those take most of the time.
_SWEEPS = 2
_ROUNDS_A_CHECK = 5
_GAIN = 1e-3
# A share of the squares at which the rest of them is rounding.
_EXACT = 1e-5
# Beyond the parts, and how often there and back, to find the singular vectors as nearly as a beginning needs.
_DIRECTIONS_TO_SPARE = 6
_TURNS = 2


def factorize(matrix: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """``matrix ≈ left @ right`` in the least squares sense, with nothing negative in either.

    By hierarchical alternating least squares (Cichocki and Phan 2009, https://doi.org/10.1587/transfun.E92.A.708),
    which solves for one part at a time with the others held, and then goes on a little in the direction of each
    round (Ang and Gillis 2019, https://doi.org/10.1162/neco_a_01157), until five rounds lessen the squared error by
    less than a thousandth. It begins with the singular vectors (Boutsidis and Gallopoulos 2008,
    https://doi.org/10.1016/j.patcog.2007.09.010), not at random: a matrix always has the same factors.

    Args:
        matrix: [m, n], float32 or float64, finite, nothing negative.
        parts: from 1 to the smaller of m and n.

    Returns:
        ``left`` [m, parts], each part at the scale of the matrix, and ``right`` [parts, n], each part with 1 as its
        largest value; the largest parts first. Parts that are not needed are zeros.
    """
    with torch.autocast(matrix.device.type, enabled=False):
        tiny = torch.finfo(matrix.dtype).tiny
        size = matrix.amax().clamp_min(tiny)
        matrix = matrix / size
        energy = matrix.square().sum().clamp_min(tiny)
        kept_left, kept_right = _begin(matrix, parts)
        left, right = kept_left.clone(), kept_right.clone()
        step, longest, error, checked = 0.0, 1.0, math.inf, math.inf
        for count in range(1, _ROUNDS + 1):
            if count == _ROUNDS_TO_SETTLE:
                step = 0.5
            _improve(right, left @ left.mT, left @ matrix)
            found_right, right = right, _beyond(right, kept_right, step)
            gram, products = right @ right.mT, right @ matrix.mT
            _improve(left, gram, products)
            now = _error(energy, left, products, gram)
            if step > 0 and now > error:  # it went too far: back, for one round without a step
                left, right = kept_left.clone(), kept_right.clone()
                step, longest, error = step / 1.5, step, math.inf
                continue
            found_left, left = left, _beyond(left, kept_left, step)
            kept_left, kept_right, error = found_left, found_right, now
            longest = min(1.0, 1.01 * longest)
            step = min(longest, 1.05 * step)
            if count % _ROUNDS_A_CHECK == 0:
                if checked - error <= _GAIN * max(error, _EXACT):
                    break
                checked = error
        right = kept_right.clone()
        _improve(right, kept_left @ kept_left.mT, kept_left @ matrix)
        return _scaled(kept_left, right, size)


def _error(energy: Tensor, left: Tensor, products: Tensor, gram: Tensor) -> float:
    """The squares of what is left of the matrix, as a share of its own."""
    met = torch.vdot(left.flatten(), products.flatten())
    return float((energy - 2 * met + torch.vdot((left @ left.mT).flatten(), gram.flatten())) / energy)


def _beyond(found: Tensor, before: Tensor, step: float) -> Tensor:
    """On from ``found``, away from what was before it."""
    return torch.lerp(before, found, 1 + step).clamp_min_(_FLOOR)


def _begin(matrix: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Factors [parts, m] and [parts, n]: of each pair of singular vectors the halves, positive or negative, that hold
    more; where those have nothing, what would make the mean of the matrix.
    """
    u, values, v = _singular(matrix, parts)
    halves = [(u.clamp_min(0), v.clamp_min(0)), ((-u).clamp_min(0), (-v).clamp_min(0))]
    held = [left.norm(dim=1) * right.norm(dim=1) for left, right in halves]
    positive = (held[0] >= held[1])[:, None]
    scale = (values * torch.maximum(*held)).sqrt()[:, None]
    filling = (matrix.mean() / parts).sqrt()

    def at_scale(one: Tensor, other: Tensor) -> Tensor:
        half = torch.where(positive, one, other)
        begun = scale * half / half.norm(dim=1, keepdim=True).clamp_min(_FLOOR)
        return torch.where(begun > 0, begun, filling)

    (left, right), (other_left, other_right) = halves
    return at_scale(left, other_left), at_scale(right, other_right)


def _singular(matrix: Tensor, parts: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values [parts], with the vectors [parts, m] and [parts, n], as nearly as a beginning needs
    them: of the matrix on the few directions into which it sends noise (Halko, Martinsson and Tropp 2011,
    https://doi.org/10.1137/090771806), which costs a tenth of all its singular values.
    """
    count = min(parts + _DIRECTIONS_TO_SPARE, *matrix.shape)
    noise = torch.randn(count, matrix.shape[1], generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    directions = noise.to(matrix.device).mT
    for _ in range(_TURNS):
        directions = torch.linalg.qr(matrix.mT @ torch.linalg.qr(matrix @ directions)[0])[0]
    u, values, v = torch.linalg.svd(matrix @ directions, full_matrices=False)
    return u.mT[:parts], values[:parts], (v @ directions.mT)[:parts]


def _improve(factor: Tensor, gram: Tensor, products: Tensor) -> None:
    """One part after the other, each the best there is with the others held: the minimum along it, cut off at zero.

    Args:
        factor: [parts, n]; changed in place.
        gram: [parts, parts], of the other factor with itself.
        products: [parts, n], of the other factor with the matrix.
    """
    own = gram.diagonal().clamp_min(_FLOOR)[:, None]
    others = (gram / own).fill_diagonal_(0).unbind()
    targets = (products / own).unbind()
    places, free = factor.mT, torch.empty_like(factor[0])
    rows = list(zip(factor.unbind(), others, targets, strict=True))
    for _ in range(_SWEEPS):
        for part, weights, target in rows:
            torch.addmv(target, places, weights, alpha=-1, out=free)
            torch.clamp_min(free, _FLOOR, out=part)


def _scaled(left: Tensor, right: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The factors as they are returned."""
    highest = right.amax(dim=1, keepdim=True)
    left, right = left * highest, right / highest
    order = (left.norm(dim=1) * right.norm(dim=1)).argsort(descending=True)
    left, right = left[order], right[order]
    needed = (left.amax(dim=1, keepdim=True) > 1e-6).to(left.dtype)
    return (left * needed * size).mT, right * needed
