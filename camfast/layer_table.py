"""The text of ``camfast layers``: what can be explained in a model."""

from __future__ import annotations

import torch

from camfast.inputs import check_inputs
from camfast.layers import LayerRun, find_target_layer, trace_layers
from camfast.models import load_model
from camfast.passes import prepared


def layer_table(name: str, everything: bool = False) -> str:
    """Layers of a model in the order in which they run: name, type, output; the default target is marked.

    Args:
        name: a model that :func:`camfast.load_model` knows; weights do not matter here.
        everything: also layers that put out no feature map.

    Raises:
        ModelError: an unknown model.
    """
    model = load_model(name, weights="random")
    side = model.preprocess.crop
    batch = check_inputs(torch.zeros(1, 3, side, side))
    with prepared(model.module):
        runs = [run for run in trace_layers(model.module, batch) if run.name]
    try:
        default = find_target_layer(runs)
        note = f"> is the layer that is explained by default: {default}"
    except ValueError as error:
        default, note = "", f"no default: {error}"
    shown = {run.name: run for run in runs if everything or run.spatial}
    width = max(map(len, shown), default=0)
    rows = [f"{'>' if run.name == default else ' '} {run.name:<{width}}  {_describe(run)}" for run in shown.values()]
    return "\n".join([f"{name}, input [1, 3, {side}, {side}]", *rows, note])


def _describe(run: LayerRun) -> str:
    return f"{type(run.module).__name__:<24} {list(run.shape)}"
