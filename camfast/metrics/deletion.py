"""Deletion and insertion: how fast the score falls as pixels go, or rises as they come, the hottest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camfast.inputs import Inputs
from camfast.metrics.baselines import Baseline, check_baseline
from camfast.metrics.case import Case
from camfast.metrics.heatmaps import Heatmaps
from camfast.metrics.perturbing import Score
from camfast.metrics.result import Scores, only_where
from camfast.outputs import Selector
from camfast.targets import Target


def deletion(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    targets: Target = None,
    *,
    steps: int = 20,
    baseline: Baseline = "zero",
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Deletion (Petsiuk et al. 2018, RISE, https://arxiv.org/abs/1806.07421): lower is better.

    Pixels are replaced by the baseline, the hottest first, in equal steps. The value is the area under the curve of
    the score over the share of pixels that are gone, by the trapezoidal rule. Pixels of the same heat go in reading
    order, so that a constant heatmap deletes from the top.

    >>> camfast.metrics.deletion(model, x, camfast.GradCAM(model)(x))  # doctest: +SKIP
    deletion 0.1042 (lower is better; 2 images, from 0.0613 to 0.1471)

    Args:
        model: any module that maps the images to logits [N, classes].
        x: images [N, C, H, W], or several inputs, as a tuple or as a dict by name.
        heatmaps: [N, H, W], a tensor or an array, of any size: it is interpolated to that of the images. A heatmap
            with a value that is not finite gives NaN, and touches no other sample.
        targets: None (the predicted class of every sample), a class for all, a sequence of N classes, a LongTensor
            [N], or callables that map one sample's output to a scalar tensor.
        steps: how many times pixels are replaced. The authors take one row at a time: 224.
        baseline: what pixels are replaced by: ``"zero"`` (the mean colour of normalized images; the authors' choice),
            ``"mean"`` (of each image), ``"blur"`` (a Gaussian), a number, or a tensor that broadcasts to the images.
        score: what counts of a class: ``"softmax"``, its probability; ``"logit"``; or a callable that makes
            [N, classes] of the logits. Targets that are callables are given the model's output as it is.
        output: which part of the model's output has the logits, where that is not a tensor: a key, an index, or a
            callable.
        batch_size: how many images go through the model together. None chooses by their size; where memory runs out,
            it is halved, with a RuntimeWarning.

    Returns:
        Values [N], curves [N, steps + 1] from the whole image to the baseline, and ``at`` [steps + 1], the share of
        pixels that are gone. Float32, or float64 where the model puts that out.

    Raises:
        TypeError, ValueError: what is wrong with an argument. Whatever the model raises comes through unchanged.
    """
    case = Case(model, x, heatmaps, targets, score=score, output=output, batch_size=batch_size)
    return deletion_of(case, steps=steps, baseline=baseline)


def insertion(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    targets: Target = None,
    *,
    steps: int = 20,
    baseline: Baseline = "blur",
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Insertion (Petsiuk et al. 2018, RISE, https://arxiv.org/abs/1806.07421): higher is better.

    As :func:`deletion`, the other way: beginning with the baseline, pixels of the image come in, the hottest first.
    The authors begin with a blurred image, so that no sharp edges of what has come in are evidence by themselves.

    Args:
        model, x, heatmaps, targets, steps, score, output, batch_size: as in :func:`deletion`.
        baseline: what the image is before its pixels come in.

    Returns:
        Values [N], curves [N, steps + 1] from the baseline to the whole image, and ``at`` [steps + 1], the share of
        pixels that have come in.

    Raises:
        TypeError, ValueError: as :func:`deletion`.
    """
    case = Case(model, x, heatmaps, targets, score=score, output=output, batch_size=batch_size)
    return insertion_of(case, steps=steps, baseline=baseline)


def deletion_of(case: Case, *, steps: int | Sequence[int] = 20, baseline: Baseline = "zero") -> Scores:
    """Of a case; see :func:`deletion`. In place of a number of steps: how many pixels are gone at each point, from none
    to all."""
    return _curve(case, "deletion", steps, baseline)


def insertion_of(case: Case, *, steps: int | Sequence[int] = 20, baseline: Baseline = "blur") -> Scores:
    """Of a case; see :func:`insertion`, and for ``steps`` :func:`deletion_of`."""
    return _curve(case, "insertion", steps, baseline)


def _curve(case: Case, name: str, steps: int | Sequence[int], baseline: Baseline) -> Scores:
    scorer, inserts = case.scorer, name == "insertion"
    images = scorer.images.flatten(2)
    empty = check_baseline(baseline, scorer.images).flatten(2)
    pixels = images.shape[2]
    points = list(steps) if isinstance(steps, Sequence) else _counts(steps, pixels)
    counts = torch.tensor(points, device=images.device)
    ranks = _ranks(case.maps.flat)
    # The whole image is one end of the curve, and its score is known.
    first = 0 if inserts else 1

    def make(samples: Tensor, variants: Tensor) -> Tensor:
        hot = (ranks[samples] < counts[variants + first, None])[:, None]
        kept = hot if inserts else ~hot
        changed = torch.where(kept, images[samples], empty[samples])
        return changed.reshape(len(samples), *scorer.images.shape[1:])

    scores = scorer.variants(len(points) - 1, make)
    whole = scorer.original[:, None]
    curves = only_where(case.maps.finite, torch.cat([scores, whole] if inserts else [whole, scores], dim=1))
    at = counts.to(curves.dtype) / pixels
    return Scores(name, torch.trapezoid(curves, at), higher_is_better=inserts, curves=curves, at=at)


def _counts(steps: Any, pixels: int) -> list[int]:
    """How many pixels are replaced at every point of the curve."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= pixels:
        raise ValueError(f"steps={steps!r}; expected a whole number from 1 to {pixels}, the pixels of an image")
    return [(2 * step * pixels + steps) // (2 * steps) for step in range(steps + 1)]


def _ranks(heat: Tensor) -> Tensor:
    """The place of every pixel [N, pixels], 0 for the hottest; the earlier one first where two are the same."""
    order = heat.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(heat.shape[1], device=heat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
