"""The sanity check: an explanation of what a model has learned must change when the model forgets it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camfast.inputs import Inputs
from camfast.layers import resolve_layers
from camfast.methods import get_method
from camfast.metrics.case import Case, Explain
from camfast.metrics.checks import check_seed
from camfast.metrics.result import Scores, only_where
from camfast.metrics.similarity import hog, spearman, ssim
from camfast.outputs import Selector
from camfast.targets import Target
from camfast.wrappers import plain_module

Mode = Literal["cascading", "independent"]
_BASE = 0x5EED << 16
"""Seeds are counted from here (32 bits of them count): a model that was built after torch.manual_seed(0) must not get
its own weights again."""

MODES: tuple[Mode, ...] = ("cascading", "independent")


@dataclass(frozen=True, eq=False)
class SanityCheck:
    """How alike heatmaps are to those of the model with random weights. Lower is better throughout."""

    mode: Mode
    """``"cascading"`` or ``"independent"``."""
    layers: tuple[str, ...]
    """The names of L layers, in the order in which they were randomized: from the last on."""
    spearman: Tensor
    """[N, L] from -1 to 1: Spearman's rank correlation with the heatmap of the model as it is."""
    ssim: Tensor
    """[N, L] up to 1: structural similarity."""
    hog: Tensor
    """[N, L] from -1 to 1: Pearson's correlation of the histograms of oriented gradients."""

    @property
    def scores(self) -> Scores:
        """The rank correlations as a metric: values are their means over the layers."""
        at = torch.arange(1, len(self.layers) + 1, device=self.spearman.device) / len(self.layers)
        parts = {"ssim": self.ssim.mean(1), "hog": self.hog.mean(1)}
        return Scores("sanity", self.spearman.mean(1), higher_is_better=False, curves=self.spearman, at=at, parts=parts)

    def __repr__(self) -> str:
        width = max(map(len, (*self.layers, self.mode)))
        rows = [f"{self.mode:<{width}}  spearman   ssim    hog"]
        # The mean over the samples that have a number.
        means = [each.nanmean(0).tolist() for each in (self.spearman, self.ssim, self.hog)]
        for name, rank, form, edges in zip(self.layers, *means, strict=True):
            rows.append(f"{name:<{width}}  {rank:8.3f} {form:6.3f} {edges:6.3f}")
        return "\n".join(rows)


def sanity_check(
    model: nn.Module,
    x: Inputs,
    explainer: Any,
    targets: Target = None,
    *,
    mode: Mode = "cascading",
    layers: Sequence[nn.Module | str] | None = None,
    seed: int = 0,
    output: Selector | None = None,
) -> SanityCheck:
    """Sanity check by random weights (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292).

    The weights of a copy of the model are randomized, a layer at a time from the last to the first, and the heatmaps of
    the classes of the untouched model compared with its own, by the paper's three similarities. One that stays the same
    does not depend on what was learned. The model itself is not touched.

    >>> print(camfast.metrics.sanity_check(model, x, camfast.GradCAM, layers=["layer4", "layer3"]))  # doctest: +SKIP

    Args:
        model, x, targets, output: as in :func:`camfast.metrics.deletion`.
        explainer: what makes an explainer of a model: a class such as ``camfast.GradCAM``, its name, or a function of
            the model; or an explainer of this model, which is copied with it.
        mode: ``"cascading"`` keeps what was randomized before; ``"independent"`` randomizes one layer alone.
        layers: modules of the model or their names, in the order in which they are to be randomized, each with all
            modules in it. None takes every module that has a weight of two or more dimensions, from the last to the
            first in the order in which the model was built.
        seed: of the random weights. They are drawn as for a new module, by its ``reset_parameters``; where it has none,
            from a normal distribution with the mean and deviation of the weights. Norms, and the statistics of
            BatchNorm, stay.

    Returns:
        Similarities [N, L]; NaN where a heatmap is not finite. A constant heatmap has correlations of 0.

    Raises:
        TypeError, ValueError: what is wrong with an argument; a model that cannot be copied.
    """
    check_seed(seed)
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; expected one of {', '.join(map(repr, MODES))}")
    plain = plain_module(model)
    names = _layer_names(plain, layers)
    explain, make = _maker(plain, explainer)
    case = Case(plain, x, None, targets, explainer=explain, output=output)
    return _check(case, plain, make, names, mode, seed)


def sanity_of(case: Case, *, mode: Mode = "cascading", layers: Any = None, seed: int = 0) -> Scores:
    """Of a case, whose explainer is of its model; see :func:`sanity_check`."""
    check_seed(seed)
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; expected one of {', '.join(map(repr, MODES))}")
    plain = plain_module(case.scorer.model)
    if getattr(case.explainer, "model", None) is not plain:
        raise ValueError("the sanity check copies the explainer with its model; it needs one of camfast's explainers")
    _, make = _maker(plain, case.explainer)
    return _check(case, plain, make, _layer_names(plain, layers), mode, seed).scores


Make = Callable[[], tuple[nn.Module, Explain]]
"""Copies the model, and makes an explainer of the copy."""


def _check(case: Case, model: nn.Module, make: Make, names: Sequence[str], mode: Mode, seed: int) -> SanityCheck:
    found: dict[str, list[Tensor]] = {"spearman": [], "ssim": [], "hog": []}
    # Weights that are made in inference mode could not be explained by gradients.
    with torch.inference_mode(False):
        other, explain = make()
        learned = [(value, value.detach().clone()) for value in (*other.parameters(), *other.buffers())]
        for number, name in enumerate(names):
            if mode == "independent":
                _restore(learned)
            _randomize(other.get_submodule(name), seed + number, case.scorer.images.device)
            maps = case.explained(case.scorer.batch, explain)
            finite = case.maps.finite & maps.finite
            for measure, values in zip((spearman, ssim, hog), found.values(), strict=True):
                values.append(only_where(finite, measure(maps.values, case.maps.values)))
    return SanityCheck(mode, tuple(names), **{name: torch.stack(values, 1) for name, values in found.items()})


def _restore(learned: Sequence[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for value, before in learned:
            value.copy_(before)


def _maker(model: nn.Module, explainer: Any) -> tuple[Explain, Make]:
    """An explainer of the model, and what makes one of a copy of it."""
    if isinstance(explainer, str):
        explainer = get_method(explainer)
    if not callable(explainer):
        raise TypeError(
            f"explainer is a {type(explainer).__name__}; expected a method, its name, a function of the model, or an "
            "explainer of it"
        )
    if isinstance(getattr(explainer, "model", None), nn.Module):
        if explainer.model is not model:
            raise ValueError("explainer explains another model; give one of the model that is checked")

        def copied() -> tuple[nn.Module, Explain]:
            other = _copy(explainer)
            return other.model, other

        return explainer, copied

    def made() -> tuple[nn.Module, Explain]:
        other = _copy(model)
        return other, explainer(other)

    return explainer(model), made


def _copy(original: Any) -> Any:
    try:
        return copy.deepcopy(original)
    except Exception as error:
        raise ValueError(f"the model cannot be copied ({error}); the check randomizes only a copy") from error


def _layer_names(model: nn.Module, layers: Any) -> list[str]:
    if layers is not None:
        if not isinstance(layers, (str, nn.Module)) and not list(layers):
            raise ValueError("layers is empty; give at least one layer, or None for all")
        names = list(resolve_layers(model, layers))
        for name in names:
            if not any(_has_weights(module) for module in model.get_submodule(name).modules()):
                raise ValueError(f"layers has {name!r}, which has no weights of two or more dimensions to randomize")
        return names
    names = [name for name, module in model.named_modules() if _has_weights(module)]
    if not names:
        raise ValueError("the model has no layer with weights of two or more dimensions; there is nothing to randomize")
    return names[::-1]


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))


def _randomize(layer: nn.Module, seed: int, device: torch.device) -> None:
    """New weights for a module and all in it; the generators of the caller go on as if nothing had been drawn."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(_BASE + seed)
        for module in layer.modules():
            if not _has_weights(module):
                continue
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                deviation = float(parameter.float().std()) if parameter.numel() > 1 else math.nan
                # A new module's tokens and positions may all be the same, which is no distribution to draw from.
                parameter.normal_(float(parameter.float().mean()), deviation if deviation > 0 else 0.02)
