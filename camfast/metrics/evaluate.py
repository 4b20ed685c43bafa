"""Several metrics of one explainer at once, as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn

from camfast.inputs import Inputs
from camfast.metrics.adcc import adcc_of, arcc_of, coherency_of, complexity_of
from camfast.metrics.case import Case, Explain
from camfast.metrics.confidence import average_drop_of, increase_of
from camfast.metrics.deletion import deletion_of, insertion_of
from camfast.metrics.heatmaps import Heatmaps
from camfast.metrics.perturbing import Score
from camfast.metrics.pointing import pointing_game
from camfast.metrics.result import Scores
from camfast.metrics.road import road_of
from camfast.metrics.sanity import sanity_of
from camfast.metrics.sensitivity import sensitivity_of
from camfast.outputs import Selector
from camfast.suggest import did_you_mean
from camfast.targets import Target


def _pointing_of(case: Case, **options: Any) -> Scores:
    return pointing_game(case.maps.where_finite(), **options)


METRICS: dict[str, Callable[..., Scores]] = {
    "deletion": deletion_of,
    "insertion": insertion_of,
    "drop": average_drop_of,
    "increase": increase_of,
    "road": road_of,
    "complexity": complexity_of,
    "coherency": coherency_of,
    "adcc": adcc_of,
    "arcc": arcc_of,
    "sensitivity": sensitivity_of,
    "sanity": sanity_of,
    "pointing": _pointing_of,
}
"""By name, as :func:`evaluate` and ``camfast bench --metrics`` take them."""

DEFAULT_METRICS = ("deletion", "insertion", "drop", "increase", "road", "adcc")
"""A picture of every side in tens of forward passes; sensitivity and sanity take hundreds."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What metrics say of one explainer on one batch. Print it."""

    explainer: str
    scores: dict[str, Scores]
    """By the name of the metric."""
    heatmaps: Tensor
    """[N, H, W]: what was judged, at the size of the images; NaN throughout in samples that are not finite."""

    def __getitem__(self, metric: str) -> Scores:
        return self.scores[metric]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by metric, as JSON has them: the mean, the values of all samples, and which way is better."""
        return {name: scores.as_dict() for name, scores in self.scores.items()}

    def __repr__(self) -> str:
        width = max(map(len, (*self.scores, "metric")))
        rows = [f"{self.explainer}, {len(self.heatmaps)} image{'s' if len(self.heatmaps) != 1 else ''}"]
        rows.append(f"  {'metric':<{width}}  {'mean':>8} {'least':>8} {'most':>8}  better")
        for name, scores in self.scores.items():
            found = [value for value in scores.values.tolist() if not math.isnan(value)]
            numbers = (scores.mean, min(found, default=math.nan), max(found, default=math.nan))
            columns = " ".join(f"{number:8.4f}" for number in numbers)
            rows.append(f"  {name:<{width}}  {columns}  {scores.better}")
        return "\n".join(rows)


def evaluate(
    explainer: Explain,
    x: Inputs,
    metrics: str | Iterable[str] = DEFAULT_METRICS,
    targets: Target = None,
    *,
    model: nn.Module | None = None,
    heatmaps: Heatmaps | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    score: Score = "softmax",
    output: Selector | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Judge an explainer by several metrics, which share what they have in common.

    >>> print(camfast.metrics.evaluate(camfast.GradCAM(model), x))  # doctest: +SKIP

    Args:
        explainer: makes heatmaps [N, H, W] of ``x`` and targets: ``camfast.GradCAM(model)``, or any callable.
        x: images [N, C, H, W], or several inputs, as a tuple or as a dict by name.
        metrics: names from ``camfast.metrics.METRICS``.
        targets: as in :func:`camfast.metrics.deletion`.
        model: what is explained; None takes ``explainer.model``.
        heatmaps: what the explainer has made of ``x`` and targets, where that is known already.
        options: of metrics, by name: ``{"deletion": {"steps": 50}, "pointing": {"boxes": boxes}}``.
        score, batch_size: as in :func:`camfast.metrics.deletion`.
        output: as there; None takes ``explainer.output``, if there is one.

    Returns:
        The scores by name, in the order of ``metrics``.

    Raises:
        TypeError, ValueError: an unknown metric or option, a missing model, and what the metrics themselves raise.
    """
    names = check_metrics(metrics)
    given = _check_options(options, names)
    if model is None:
        model = getattr(explainer, "model", None)
        if model is None:
            raise ValueError("explainer has no .model; give model=, which the metrics run on changed images")
    if output is None:
        output = getattr(explainer, "output", None)
    case = Case(model, x, heatmaps, targets, explainer=explainer, score=score, output=output, batch_size=batch_size)
    scores = {name: METRICS[name](case, **given.get(name, {})) for name in names}
    return Evaluation(_name_of(explainer), scores, case.maps.where_finite())


def check_metrics(metrics: str | Iterable[str]) -> list[str]:
    """Names of metrics, each once.

    Raises:
        ValueError: an unknown one, or none.
    """
    names = list(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metric {name!r} is unknown; {did_you_mean(str(name), METRICS, show=len(METRICS))}")
    if not names:
        raise ValueError(f"metrics is empty; known: {', '.join(METRICS)}")
    return names


def _check_options(options: Any, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Options by metric; raises ValueError for what is none."""
    given = {} if options is None else options
    if not isinstance(given, Mapping) or not all(isinstance(each, Mapping) for each in given.values()):
        raise ValueError(f'options={options!r}; expected options by metric, {{"deletion": {{"steps": 50}}}} say')
    for name, own in given.items():
        if name not in names:
            raise ValueError(f"options has {name!r}, which is not among metrics ({', '.join(names)})")
        parameters = signature(pointing_game if name == "pointing" else METRICS[name]).parameters.values()
        known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        for option in own:
            if option not in known:
                hint = did_you_mean(str(option), known) if known else "it has none"
                raise ValueError(f"options[{name!r}] has {option!r}, which is no option of that metric; {hint}")
    return dict(given)


def _name_of(explainer: Any) -> str:
    named = getattr(explainer, "__name__", None)
    return named if isinstance(named, str) else type(explainer).__name__
