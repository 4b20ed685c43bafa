"""The text of ``camfast layers``: what can be explained in a model."""

from __future__ import annotations

import torch
from torch import nn

from camfast.inputs import check_inputs
from camfast.layer_runs import LayerRun, trace_sample
from camfast.models import load_model
from camfast.target_layer import find_target_layer

# Of detectors and segmentation models, which take images of any size.
_SIDE = 224


def layer_table(name: str, everything: bool = False) -> str:
    """Layers of a model in the order in which they run: name, type, output, and how that is a map, where it has not
    the form [N, C, h, w]. The default target is marked.

    Args:
        name: a model that :func:`camfast.load_model` knows, or one of torchvision's for detection or segmentation;
            weights do not matter here.
        everything: also layers that put out no feature map.

    Raises:
        ModelError: an unknown model.
    """
    module, side = _load(name)
    runs = [run for run in trace_sample(module, check_inputs(torch.zeros(1, 3, side, side))) if run.name]
    try:
        default = find_target_layer(runs)
        note = f"> is the layer that is explained by default: {default}"
    except ValueError as error:
        default, note = "", f"no default: {error}"
    shown = {run.name: run for run in runs if everything or run.spatial}
    width = max(map(len, shown), default=0)
    rows = [f"{'>' if run.name == default else ' '} {run.name:<{width}}  {_describe(run)}" for run in shown.values()]
    return "\n".join([f"{name}, input [1, 3, {side}, {side}]", *rows, note])


def _load(name: str) -> tuple[nn.Module, int]:
    """A model with random weights, and the side of its images."""
    from torchvision import models

    if name in models.list_models(module=models.detection) + models.list_models(module=models.segmentation):
        module: nn.Module = models.get_model(name, weights=None, weights_backbone=None).eval()
        return module, _SIDE
    loaded = load_model(name, weights="random")
    return loaded.module, loaded.preprocess.crop


def _describe(run: LayerRun) -> str:
    shape = str(list(run.shape)) if run.shape else f"a {run.output_type.__name__}"
    described = f"{type(run.module).__name__:<24} {shape}"
    if run.reading is None or (run.reading.prefix is None and not run.reading.channels_last):
        return described
    return f"{described:<52} {run.reading}"
