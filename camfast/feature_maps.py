"""The feature maps that layers of a model put out for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn

from camfast.hooks import capture
from camfast.inputs import check_inputs, normal_tensors
from camfast.layer_runs import LayerRun, trace_sample
from camfast.passes import prepared
from camfast.proof import spared
from camfast.suggest import did_you_mean
from camfast.wrappers import plain_module

T = TypeVar("T")


@dataclass(frozen=True)
class FeatureMaps:
    """What one layer put out, as maps."""

    layer: str
    kind: str
    """The type of the layer."""
    maps: Tensor
    """[N, C, h, w]"""

    @property
    def form(self) -> str:
        """The type of the layer, and how many maps there are of which size."""
        channels, height, width = self.maps.shape[1:]
        return f"{self.kind}, {channels} of {height}×{width}"

    def __str__(self) -> str:
        return f"{self.layer}: {self.form}"


def feature_maps(
    model: nn.Module, x: Tensor, layers: str | Sequence[str] | None = None
) -> tuple[list[FeatureMaps], list[str]]:
    """What layers put out for a batch, in the order in which they run, and which ones put out no map.

    The model runs in evaluation mode, without a graph, and is left as it was. The tokens of a transformer are read as
    the map that they are.

    Args:
        model: any module that takes one tensor.
        x: [N, 3, H, W], as the model takes it.
        layers: names, or patterns such as ``"features.*"``; None takes every convolution, or where there is none every
            layer without layers inside.

    Raises:
        TypeError: ``model`` is no module, or ``x`` no tensor.
        ValueError: a pattern matches no layer; none of the layers puts out a map.
    """
    model = plain_module(model)
    batch = check_inputs(x)
    runs = {run.name: run for run in trace_sample(model, batch) if run.name}
    wanted = _by_default(model, runs) if layers is None else matching(model, layers)
    chosen = {name: run for name, run in runs.items() if name in wanted and run.spatial and len(run.size) == 2}
    without = [name for name in wanted if name not in chosen]
    if not chosen:
        raise ValueError(f"layers={layers!r}: {_why_none(without, runs)}")
    with (
        prepared(model),
        spared(model, batch.images.device),
        torch.no_grad(),
        capture(model, list(chosen), gradients=False) as seen,
    ):
        normal_tensors(batch.map(torch.clone)).call(model)
    found = []
    for name, run in chosen.items():
        assert run.reading is not None  # it is spatial
        found.append(FeatureMaps(name, type(run.module).__name__, run.reading.maps(seen.activations[name])))
    return found, without


def matching(model: nn.Module, layers: str | Sequence[str]) -> list[str]:
    """Names of layers that match names or patterns, in the model's order.

    Raises:
        ValueError: nothing is given, or a pattern matches none, with the closest names.
    """
    # The globs of camfast.capture can take the place of this function once it has them.
    patterns = [layers] if isinstance(layers, str) else list(layers)
    if not patterns:
        raise ValueError("layers is empty; give names of layers, or patterns such as 'features.*'")
    known = [name for name, _ in model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"layers: {pattern!r} matches no layer of the model; {did_you_mean(pattern, known)}")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def first_middle_last(items: Sequence[T]) -> list[T]:
    """Three of them, or as many as there are."""
    return [items[index] for index in sorted({0, len(items) // 2, len(items) - 1})]


def _by_default(model: nn.Module, runs: dict[str, LayerRun]) -> list[str]:
    ran = {name: module for name, module in model.named_modules() if name in runs}
    convolutions = [name for name, module in ran.items() if isinstance(module, nn.Conv2d)]
    return convolutions or [name for name, module in ran.items() if not list(module.children())]


def _why_none(without: Sequence[str], runs: dict[str, LayerRun]) -> str:
    if not without:
        return "the model has no layers"
    name = without[0]
    if name not in runs:
        return f"layer {name!r} does not run by itself; choose layers that put out feature maps [N, C, h, w]"
    run = runs[name]
    puts = f"puts out {list(run.shape)}" if run.shape else f"puts out a {run.output_type.__name__}"
    return f"no layer puts out feature maps [N, C, h, w] with more than one position; {name!r} {puts}"
