"""ROAD: what the score loses with the hottest and with the coldest pixels, which are filled from their neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camfast.inputs import Inputs
from camfast.metrics.case import Case
from camfast.metrics.checks import check_seed
from camfast.metrics.heatmaps import Heatmaps
from camfast.metrics.infill import fill
from camfast.metrics.perturbing import Score
from camfast.metrics.result import Scores, only_where
from camfast.outputs import Selector
from camfast.targets import Target

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)

Order = Literal["combined", "morf", "lerf"]
ORDERS: tuple[Order, ...] = ("combined", "morf", "lerf")


def road(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    targets: Target = None,
    *,
    order: Order = "combined",
    percentiles: Sequence[float] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Scores:
    """ROAD, remove and debias (Rong et al. 2022, https://arxiv.org/abs/2202.00449).

    Removed pixels are filled with the weighted mean of their neighbours, as a linear system says, and a little noise,
    so that the form of the hole tells the model nothing. At percentile p, most relevant first (``"morf"``) removes the
    pixels from the p-th percentile of the heat on; least relevant first (``"lerf"``) does so with the heat reversed.
    The value is the score after less the score before, averaged over the percentiles. ``"combined"`` is half of lerf
    less morf: higher is better, and 0 is no better than chance. A constant heatmap removes everything either way, which
    gives 0; an image without a known pixel becomes its own mean.

    Args:
        model, x, heatmaps, targets, score, output, batch_size: as in :func:`camfast.metrics.deletion`.
        order: ``"combined"`` (higher is better), ``"morf"`` (lower is better) or ``"lerf"`` (higher is better).
        percentiles: between 0 and 100.
        noise: standard deviation of what is added to filled pixels, in the units of ``x``. It is the same for every
            sample and percentile, so that methods are compared on the same noise.
        seed: of the noise.

    Returns:
        Values [N]; curves [N, P] and ``at`` [P], by the share of pixels that stay (the percentile); parts ``morf`` and
        ``lerf`` where they are combined.

    Raises:
        TypeError, ValueError: as :func:`camfast.metrics.deletion`; ``x`` that is no batch of images.
    """
    case = Case(model, x, heatmaps, targets, score=score, output=output, batch_size=batch_size)
    return road_of(case, order=order, percentiles=percentiles, noise=noise, seed=seed)


def road_of(
    case: Case,
    *,
    order: Order = "combined",
    percentiles: Sequence[float] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
) -> Scores:
    """Of a case; see :func:`road`."""
    shares = _check_percentiles(percentiles)
    _check_noise(noise, seed)
    if order not in ORDERS:
        raise ValueError(f"order={order!r}; expected one of {', '.join(map(repr, ORDERS))}")
    if case.scorer.images.dim() != 4:
        raise ValueError(f"x has images of shape {list(case.scorer.images.shape)}; ROAD fills images [N, C, H, W] only")
    wanted = ("morf", "lerf") if order == "combined" else (order,)
    curves = case.once((wanted, shares, noise, seed), lambda: _curves(case, wanted, shares, noise, seed))
    at = case.maps.values.new_tensor(shares) / 100
    if order != "combined":
        return Scores(f"ROAD {order}", curves[order].mean(1), order == "lerf", curves[order], at)
    combined = (curves["lerf"] - curves["morf"]) / 2
    parts = MappingProxyType({name: curve.mean(1) for name, curve in curves.items()})
    return Scores("ROAD", combined.mean(1), True, combined, at, parts)


def _curves(
    case: Case, orders: Sequence[str], percentiles: Sequence[float], noise: float, seed: int
) -> dict[str, Tensor]:
    """What the score gains, [N, P], by order."""
    scorer, maps = case.scorer, case.maps
    images = scorer.images
    morf, lerf = _thresholds(maps.flat, percentiles)
    thresholds = torch.cat([{"morf": morf, "lerf": lerf}[order] for order in orders], 1)
    from_above = torch.tensor([order == "morf" for order in orders], device=images.device)
    added = _noise(images, noise, seed)

    def make(samples: Tensor, variants: Tensor) -> Tensor:
        heat, threshold = maps.values[samples], thresholds[samples, variants, None, None]
        hottest = from_above[variants // len(percentiles), None, None]
        holes = torch.where(hottest, heat >= threshold, heat <= threshold)
        return torch.addcmul(fill(images[samples], holes), added, holes[:, None].to(images.dtype))

    gained = scorer.variants(len(orders) * len(percentiles), make) - scorer.original[:, None]
    parts = torch.split(only_where(maps.finite, gained), len(percentiles), dim=1)
    return dict(zip(orders, parts, strict=True))


def _thresholds(heat: Tensor, percentiles: Sequence[float]) -> tuple[Tensor, Tensor]:
    """[N, P] each: pixels of at least the first, or of at most the second, are removed. Interpolated between ranks."""
    ordered = heat.sort(dim=1).values
    last = heat.shape[1] - 1

    def quantiles(shares: list[float]) -> Tensor:
        places = [share / 100 * last for share in shares]
        below = ordered[:, [math.floor(place) for place in places]]
        above = ordered[:, [math.ceil(place) for place in places]]
        return torch.lerp(below, above, heat.new_tensor([place - math.floor(place) for place in places]))

    return quantiles(list(percentiles)), quantiles([100 - share for share in percentiles])


def _noise(images: Tensor, noise: float, seed: int) -> Tensor:
    """[C, H, W], drawn on the CPU, so that it is the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(images.shape[1:], generator=generator) * noise
    return drawn.to(images.device, images.dtype)


def _check_percentiles(percentiles: Any) -> tuple[float, ...]:
    try:
        shares = tuple(float(share) for share in percentiles)
    except (TypeError, ValueError):
        shares = ()
    if not shares or not all(0 < share < 100 for share in shares):
        raise ValueError(f"percentiles={percentiles!r}; expected numbers between 0 and 100, such as (20, 40, 60, 80)")
    return shares


def _check_noise(noise: Any, seed: Any) -> None:
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise!r}; expected a number of at least 0")
    check_seed(seed)
