"""One number of several: a good explanation keeps the score, says little, and says the same when asked again."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from camfast.inputs import Inputs
from camfast.metrics.case import Case, Explain
from camfast.metrics.confidence import average_drop_of
from camfast.metrics.heatmaps import Heatmaps, Maps, as_tensor, finite_maps
from camfast.metrics.perturbing import Score
from camfast.metrics.result import Scores, only_where
from camfast.metrics.road import road_of
from camfast.metrics.similarity import pearson
from camfast.outputs import Selector
from camfast.targets import Target

ARCC_PERCENTILES = (20, 40, 60, 80)


def complexity(heatmaps: Heatmaps) -> Scores:
    """Complexity (Poppi et al. 2021, https://arxiv.org/abs/2104.10252): lower is better.

    Args:
        heatmaps: [N, H, W] in [0, 1], a tensor or an array.

    Returns:
        Values [N]: the mean heat of a pixel.

    Raises:
        TypeError, ValueError: heatmaps of another type or shape, or out of [0, 1].
    """
    values = as_tensor(heatmaps)
    if values.dim() not in (3, 4) or 0 in values.shape:
        raise ValueError(f"heatmaps has shape {list(values.shape)}; expected [N, H, W]")
    return _complexity(finite_maps(values))


def coherency(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    explainer: Explain,
    targets: Target = None,
    *,
    output: Selector | None = None,
) -> Scores:
    """Coherency (Poppi et al. 2021, https://arxiv.org/abs/2104.10252): higher is better.

    The explainer explains the image multiplied with its heatmap; the value is Pearson's correlation of that heatmap and
    the first, moved from [-1, 1] to [0, 1]. A constant heatmap correlates with nothing: 0.5.

    Args:
        model, x, targets, output: as in :func:`camfast.metrics.deletion`. The class that is predicted for the image is
            explained both times.
        heatmaps: [N, H, W] in [0, 1], a tensor or an array, of any size.
        explainer: what made the heatmaps: a callable that makes heatmaps [N, H, W] of ``x`` and targets, such as
            ``camfast.GradCAM(model)``.

    Returns:
        Values [N] in [0, 1].

    Raises:
        TypeError, ValueError: as :func:`camfast.metrics.deletion`; heatmaps out of [0, 1].
    """
    return coherency_of(Case(model, x, heatmaps, targets, explainer=explainer, output=output))


def adcc(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    explainer: Explain,
    targets: Target = None,
    *,
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Average drop, coherency and complexity in one (Poppi et al. 2021, https://arxiv.org/abs/2104.10252).

    The harmonic mean of coherency, of 1 - complexity and of 1 - average drop: higher is better. It is 0 where one of
    them is.

    Args:
        model, x, heatmaps, explainer, targets, output: as in :func:`coherency`.
        score, batch_size: as in :func:`camfast.metrics.deletion`.

    Returns:
        Values [N] in [0, 1]; parts ``coherency``, ``complexity`` and ``drop``.

    Raises:
        TypeError, ValueError: as :func:`coherency`.
    """
    options = dict(score=score, output=output, batch_size=batch_size)
    return adcc_of(Case(model, x, heatmaps, targets, explainer=explainer, **options))


def arcc(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    explainer: Explain,
    targets: Target = None,
    *,
    percentiles: Sequence[float] = ARCC_PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Scores:
    """ROAD, coherency and complexity in one (https://arxiv.org/abs/2605.14641): higher is better.

    The harmonic mean of coherency, of 1 - complexity, and of twice the combined ROAD, cut to [0, 1].

    Args:
        model, x, heatmaps, explainer, targets, output: as in :func:`coherency`.
        percentiles, noise, seed: as in :func:`camfast.metrics.road`.
        score, batch_size: as in :func:`camfast.metrics.deletion`.

    Returns:
        Values [N] in [0, 1]; parts ``coherency``, ``complexity`` and ``road``.

    Raises:
        TypeError, ValueError: as :func:`coherency` and :func:`camfast.metrics.road`.
    """
    options = dict(score=score, output=output, batch_size=batch_size)
    case = Case(model, x, heatmaps, targets, explainer=explainer, **options)
    return arcc_of(case, percentiles=percentiles, noise=noise, seed=seed)


def complexity_of(case: Case) -> Scores:
    """Of a case; see :func:`complexity`."""
    return _complexity(case.maps)


def coherency_of(case: Case) -> Scores:
    """Of a case; see :func:`coherency`."""

    def compute() -> Scores:
        case.maps.check_range("coherency")
        again = case.explained(case.scorer.with_images(case.masked()))
        alike = (pearson(again.values, case.maps.values) + 1) / 2
        return Scores("coherency", only_where(case.maps.finite & again.finite, alike), higher_is_better=True)

    return case.once("coherency", compute)


def adcc_of(case: Case) -> Scores:
    """Of a case; see :func:`adcc`."""
    drop = average_drop_of(case)
    return _harmonic("ADCC", case, {"drop": drop.values}, 1 - drop.values)


def arcc_of(
    case: Case, *, percentiles: Sequence[float] = ARCC_PERCENTILES, noise: float = 0.01, seed: int = 0
) -> Scores:
    """Of a case; see :func:`arcc`."""
    road = road_of(case, percentiles=percentiles, noise=noise, seed=seed)
    return _harmonic("ARCC", case, {"road": road.values}, (2 * road.values).clamp(0, 1))


def _complexity(maps: Maps) -> Scores:
    maps.check_range("complexity")
    return Scores("complexity", only_where(maps.finite, maps.flat.mean(1)), higher_is_better=False)


def _harmonic(name: str, case: Case, parts: dict[str, Tensor], kept: Tensor) -> Scores:
    """The harmonic mean of coherency, of what is not complex, and of a third."""
    alike, busy = coherency_of(case).values, complexity_of(case).values
    terms = torch.stack([alike.to(kept.dtype), 1 - busy.to(kept.dtype), kept])
    mean = 3 / (1 / terms).sum(0)
    values = torch.where((terms <= 0).any(0) & ~terms.isnan().any(0), torch.zeros_like(mean), mean)
    found: dict[str, Any] = {"coherency": alike, "complexity": busy, **parts}
    return Scores(name, values, higher_is_better=True, parts=MappingProxyType(found))
