"""How alike two heatmaps are; all take [N, H, W] twice and give [N]."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

# Wang et al. 2004: a Gaussian of 11 pixels, and the two constants for values in [0, 1].
_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# Dalal and Triggs 2005: orientations, cells along the side of a block, the largest share of a block; and, of Adebayo et
# al. 2018, pixels along the side of a cell.
_ORIENTATIONS, _CELLS, _SHARE = 9, 3, 0.2
_PIXELS = 16


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation, from -1 to 1; 0 where either is constant, which says nothing of the other."""
    a, b = _centred(one), _centred(other)
    scale = a.norm(dim=1) * b.norm(dim=1)
    found = (a * b).sum(1) / torch.where(scale > 0, scale, torch.ones_like(scale))
    return found.clamp(-1, 1).to(one.dtype)


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlation, equal values share the mean of their ranks. 0 where either is constant."""
    return pearson(_ranks(one.flatten(1)), _ranks(other.flatten(1))).to(one.dtype)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861) of values in [0, 1].

    Windows lie within the map; one of fewer than 11 pixels a side has narrower windows.
    """
    a, b = one.double(), other.double()
    mean_a, mean_b = _windowed(a), _windowed(b)
    var_a, var_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    both = _windowed(a * b) - mean_a * mean_b
    brightness = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * both + _C2) / (var_a + var_b + _C2)
    return (brightness * structure).flatten(1).mean(1).to(one.dtype)


def hog(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of histograms of oriented gradients, as Adebayo et al. 2018 compare maps: whether edges run
    the same way in the same places. 0 where either map has none.
    """
    return pearson(oriented_gradients(one), oriented_gradients(other)).to(one.dtype)


def oriented_gradients(maps: Tensor) -> Tensor:
    """Histograms of oriented gradients (Dalal and Triggs 2005, https://doi.org/10.1109/CVPR.2005.177), [N, features].

    Nine orientations in cells of 16 pixels a side, three cells a block, normalized by L2 with cut-off values. A map of
    fewer than 48 pixels a side has smaller cells. A volume is one picture after another.
    """
    pictures = maps.double().flatten(0, -3)
    down, right = torch.zeros_like(pictures), torch.zeros_like(pictures)
    down[:, 1:-1] = pictures[:, 2:] - pictures[:, :-2]
    right[:, :, 1:-1] = pictures[:, :, 2:] - pictures[:, :, :-2]
    turns = (torch.atan2(down, right) / math.pi).remainder(1) * _ORIENTATIONS
    bins = turns.long().clamp_max(_ORIENTATIONS - 1)
    edges = torch.zeros_like(pictures)[:, None].repeat(1, _ORIENTATIONS, 1, 1)
    edges.scatter_(1, bins[:, None], torch.hypot(down, right)[:, None])
    blocks = avg_pool2d(edges, [min(_PIXELS, max(side // _CELLS, 1)) for side in pictures.shape[1:]])
    for dimension in (2, 3):
        blocks = blocks.unfold(dimension, min(_CELLS, blocks.shape[dimension]), 1)
    blocks = blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)
    return _of_length_one(_of_length_one(blocks).clamp_max(_SHARE)).reshape(len(maps), -1)


def _of_length_one(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(-1, keepdim=True) + 1e-10).sqrt()


def _centred(values: Tensor) -> Tensor:
    """[N, pixels] float64, its mean taken away; exactly 0 where all are the same."""
    flat = values.flatten(1)
    same = (flat == flat[:, :1]).all(1, keepdim=True)
    exact = flat.double()
    return torch.where(same, torch.zeros_like(exact), exact - exact.mean(1, keepdim=True))


def _ranks(values: Tensor) -> Tensor:
    """Ranks [N, P] from 0, in float64; equal values have the mean of theirs."""
    ordered = values.sort(dim=1).values
    first = torch.searchsorted(ordered, values.contiguous())
    after = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (first + after - 1).double() / 2


def _windowed(values: Tensor) -> Tensor:
    """The weighted mean of every window, along each dimension of space in turn."""
    for dimension in range(1, values.dim()):
        radius = min(_RADIUS, (values.shape[dimension] - 1) // 2)
        offsets = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
        weights = (-0.5 * (offsets / _SIGMA) ** 2).exp()
        windows = values.unfold(dimension, 2 * radius + 1, 1)
        values = windows @ (weights / weights.sum())
    return values
