"""What becomes of the score when only what is hot is left of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from camfast.inputs import Inputs
from camfast.metrics.case import Case
from camfast.metrics.heatmaps import Heatmaps
from camfast.metrics.perturbing import Score
from camfast.metrics.result import Scores, only_where
from camfast.outputs import Selector
from camfast.targets import Target


def average_drop(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    targets: Target = None,
    *,
    relative: bool = True,
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Average drop (Chattopadhyay et al. 2018, Grad-CAM++, https://arxiv.org/abs/1710.11063): lower is better.

    The image is multiplied with its heatmap, and the share of the score that is lost is the value:
    ``max(0, before - after) / before``; a share, where the paper has per cent.

    Args:
        model, x, targets, score, output, batch_size: as in :func:`camfast.metrics.deletion`.
        heatmaps: [N, H, W] in [0, 1], a tensor or an array, of any size.
        relative: whether the loss is divided by the score, as in the paper. A loss from a score that is not above 0
            is then NaN: it has no share. Without it, the loss itself is the value.

    Returns:
        Values [N], from 0 to 1 with ``"softmax"``.

    Raises:
        TypeError, ValueError: as :func:`camfast.metrics.deletion`; heatmaps out of [0, 1].
    """
    case = Case(model, x, heatmaps, targets, score=score, output=output, batch_size=batch_size)
    return average_drop_of(case, relative=relative)


def increase_in_confidence(
    model: nn.Module,
    x: Inputs,
    heatmaps: Heatmaps,
    targets: Target = None,
    *,
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Increase in confidence (Chattopadhyay et al. 2018, https://arxiv.org/abs/1710.11063): higher is better.

    Args:
        model, x, targets, score, output, batch_size: as in :func:`camfast.metrics.deletion`.
        heatmaps: [N, H, W] in [0, 1], a tensor or an array, of any size.

    Returns:
        Values [N]: 1 where the score of the image multiplied with its heatmap is above that of the image, else 0.

    Raises:
        TypeError, ValueError: as :func:`average_drop`.
    """
    case = Case(model, x, heatmaps, targets, score=score, output=output, batch_size=batch_size)
    return increase_of(case)


def average_drop_of(case: Case, *, relative: bool = True) -> Scores:
    """Of a case; see :func:`average_drop`."""
    before, after = case.scorer.original, masked_scores(case)
    lost = torch.where(before - after <= 0, torch.zeros_like(before), before - after)
    if relative:
        share = torch.where(before > 0, lost / before, lost.new_tensor(math.nan))
        lost = torch.where(lost == 0, lost, share)
    return Scores("average drop", only_where(case.maps.finite, lost), higher_is_better=False)


def increase_of(case: Case) -> Scores:
    """Of a case; see :func:`increase_in_confidence`."""
    before, after = case.scorer.original, masked_scores(case)
    known = case.maps.finite & ~(before.isnan() | after.isnan())
    return Scores("increase in confidence", only_where(known, (after > before).to(before.dtype)), higher_is_better=True)


def masked_scores(case: Case) -> Tensor:
    """The scores [N] of images multiplied with their heatmaps."""

    def compute() -> Tensor:
        case.maps.check_range("this metric")
        masked = case.masked()
        return case.scorer.variants(1, lambda samples, _: masked[samples])[:, 0]

    return case.once("masked", compute)
