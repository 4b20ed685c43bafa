"""The feature maps that layers of a model put out for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from camfast.hooks import capture
from camfast.inputs import check_inputs, normal_tensors
from camfast.layer_runs import LayerRun, trace_sample
from camfast.layers import Layers, resolve_layers
from camfast.passes import prepared
from camfast.proof import spared
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


def feature_maps(model: nn.Module, x: Tensor, layers: Layers | None = None) -> tuple[list[FeatureMaps], list[str]]:
    """What layers put out for a batch, in the order in which they run, and which ones put out no map.

    The model runs in evaluation mode, without a graph, and is left as it was. The tokens of a transformer are read as
    the map that they are.

    Args:
        model: any module that takes one tensor.
        x: [N, 3, H, W], as the model takes it.
        layers: as for :func:`camfast.capture`: names, globs such as ``"features.*"``, types; None takes every
            convolution, or where there is none every layer without layers inside.

    Raises:
        TypeError: ``model`` is no module, or ``x`` no tensor.
        ValueError: a layer is not in the model; none of the layers puts out a map.
    """
    model = plain_module(model)
    batch = check_inputs(x)
    runs = {run.name: run for run in trace_sample(model, batch) if run.name}
    wanted = _by_default(model, runs) if layers is None else list(resolve_layers(model, layers, "layers"))
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
    last = {entry.split(":")[0]: activation for entry, activation in seen.activations.items()}  # of several runs
    found = []
    for name, run in chosen.items():
        assert run.reading is not None  # it is spatial
        found.append(FeatureMaps(name, type(run.module).__name__, run.reading.maps(last[name])))
    return found, without


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
