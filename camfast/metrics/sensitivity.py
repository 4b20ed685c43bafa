"""Sensitivity-n: does the score fall by as much as the removed heat says?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camfast.inputs import Inputs
from camfast.metrics.baselines import Baseline, check_baseline
from camfast.metrics.case import Case
from camfast.metrics.checks import check_count, check_seed
from camfast.metrics.heatmaps import Heatmaps
from camfast.metrics.perturbing import Score
from camfast.metrics.result import Scores, only_where
from camfast.metrics.similarity import pearson
from camfast.outputs import Selector
from camfast.targets import Target

SHARES = (0.01, 0.03, 0.1, 0.3, 0.8)


def sensitivity_n(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    targets: Target = None,
    *,
    n: Sequence[int | float] = SHARES,
    subsets: int = 100,
    patch: int = 1,
    baseline: Baseline = "zero",
    seed: int = 0,
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Sensitivity-n (Ancona et al. 2018, https://arxiv.org/abs/1711.06104): higher is better.

    For every n, random subsets of n features are replaced by the baseline; the correlation (Pearson's) of the heat in
    each subset and of the score lost with it says how well the heatmap predicts what the model needs. A constant
    heatmap, or a score that no subset changes, correlates with nothing: 0. The subsets are the same for all samples,
    and those of a greater n include those of a smaller one.

    Args:
        model, x, heatmaps, targets, score, output, batch_size: as in :func:`camfast.metrics.deletion`. The paper's
            score is ``"logit"``.
        n: how many features: whole numbers, or shares of all between 0 and 1. The paper takes 1 to 80 % of them.
        subsets: how many for every n; the model runs once for each of them, n and sample.
        patch: side of a feature in pixels. The paper takes pixels, 1; single pixels hardly change what a model makes of
            a large image, squares of 16 do.
        baseline: what pixels are replaced by, as in :func:`camfast.metrics.deletion`.
        seed: of the subsets.

    Returns:
        Values [N] from -1 to 1: the mean over n; curves [N, P] and ``at`` [P], the share of features.

    Raises:
        TypeError, ValueError: as :func:`camfast.metrics.deletion`.
    """
    case = Case(model, x, heatmaps, targets, score=score, output=output, batch_size=batch_size)
    return sensitivity_of(case, n=n, subsets=subsets, patch=patch, baseline=baseline, seed=seed)


def sensitivity_of(
    case: Case,
    *,
    n: Sequence[int | float] = SHARES,
    subsets: int = 100,
    patch: int = 1,
    baseline: Baseline = "zero",
    seed: int = 0,
) -> Scores:
    """Of a case; see :func:`sensitivity_n`."""
    check_seed(seed)
    check_count("subsets", subsets, least=2)
    check_count("patch", patch)
    scorer, images = case.scorer, case.scorer.images.flatten(2)
    cells = _cells(scorer.images.shape[2:], patch).to(images.device)
    features = int(cells.max()) + 1
    sizes = torch.tensor(_sizes(n, features), device=images.device)
    empty = check_baseline(baseline, scorer.images).flatten(2)
    ranks = _random_ranks(subsets, features, seed).to(images.device)

    def make(samples: Tensor, variants: Tensor) -> Tensor:
        gone = ranks[variants % subsets] < sizes[variants // subsets, None]
        removed = torch.where(gone[:, cells][:, None], empty[samples], images[samples])
        return removed.reshape(len(samples), *scorer.images.shape[1:])

    scores = scorer.variants(len(sizes) * subsets, make).reshape(-1, len(sizes), subsets)
    lost = scorer.original[:, None, None] - scores
    heat = _heat_in(case.maps.flat, cells, features)
    curves = torch.stack(
        [
            _correlated(heat @ (ranks < size).to(heat.dtype).T, lost[:, place])
            for place, size in enumerate(sizes.tolist())
        ],
        dim=1,
    )
    curves = only_where(case.maps.finite, curves)
    at = sizes.to(curves.dtype) / features
    return Scores("sensitivity-n", curves.mean(1), higher_is_better=True, curves=curves, at=at)


def _correlated(heat: Tensor, lost: Tensor) -> Tensor:
    """[N], of [N, subsets] each; NaN where a score is."""
    known = lost.isfinite().all(1)
    return only_where(known, pearson(heat.to(lost.dtype), torch.where(known[:, None], lost, torch.zeros_like(lost))))


def _cells(size: Sequence[int], patch: int) -> Tensor:
    """The number of the feature that each pixel belongs to, [pixels]."""
    number = torch.zeros((), dtype=torch.int64)
    for length in size:
        number = number[..., None] * math.ceil(length / patch) + torch.arange(length) // patch
    return number.flatten()


def _heat_in(heat: Tensor, cells: Tensor, features: int) -> Tensor:
    """The heat of every feature, [N, features]; exactly the same in all where the heatmap is constant."""
    constant = (heat == heat[:, :1]).all(1, keepdim=True)
    sums = heat.new_zeros(len(heat), features).index_add_(1, cells, heat)
    return torch.where(constant, torch.zeros_like(sums), sums)


def _random_ranks(subsets: int, features: int, seed: int) -> Tensor:
    """[subsets, features]: each row an order of its own. Those below n are a random subset of n."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(subsets, features, generator=generator)
    return drawn.argsort(1)


def _sizes(n: Any, features: int) -> list[int]:
    if not isinstance(n, Sequence) or isinstance(n, str) or len(n) == 0:
        raise ValueError(f"n={n!r}; expected several numbers of features, or shares of them between 0 and 1")
    sizes = []
    for value in n:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"n has {value!r}; expected whole numbers, or shares between 0 and 1")
        size = value if isinstance(value, int) else max(round(value * features), 1) if 0 < value < 1 else 0
        if not 1 <= size < features:
            raise ValueError(
                f"n has {value!r}; expected a whole number from 1 to {features - 1}, as there are {features} features, "
                "or a share between 0 and 1"
            )
        sizes.append(size)
    return sizes
