"""Which layer is explained where none is given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

from camfast.layer_runs import LayerRun
from camfast.tokens import Reading

# What follows the last feature map without making another one.
_NOT_FEATURES = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
    nn.Softmax,
)

_ATTENTION = re.compile("attention|attn|mhsa", re.IGNORECASE)
_NORMALIZATION = re.compile("norm", re.IGNORECASE)


def find_target_layer(runs: Sequence[LayerRun]) -> str:
    """The layer that Grad-CAM wants: the last one whose gradient has something of every position.

    With maps to the end that is the last map, after its activation, before pooling. Of several modules that finish
    with the same map the outermost is taken (a ResNet's ``layer4``, not the last ReLU inside it). With tokens it is the
    normalization before the last attention, as after that only the token of the class may count (``blocks.11.norm1`` of
    a vision transformer). Of a model with a backbone that puts out maps by name, as detectors and segmentation models
    have one, only the backbone counts. A module that runs again later, without a map, is passed over.

    Args:
        runs: of one forward pass, in the order in which the modules finished.

    Raises:
        ValueError: no layer puts out a map; or tokens follow the last one, and no map can be made of them.
    """
    runs = _backbone(runs)
    candidates = _candidates(runs)
    last_map = max((index for index in candidates if runs[index].maps), default=-1)
    tokens = [run for run in runs[last_map + 1 :] if run.tokens]
    if not tokens and last_map < 0:
        raise ValueError(
            "no layer of the model puts out a feature map [N, C, h, w]; give target_layers, "
            "and reshape_transform if their output is a sequence of tokens"
        )
    if not tokens:
        return runs[last_map].name
    chosen = _before_attention(runs, candidates, last_map) or _last_tokens(runs, candidates)
    if chosen is None:
        shown = next((run for run in reversed(tokens) if run.reading is None), tokens[-1])
        reason = shown.trouble or f"puts out {list(shown.shape)}"
        raise ValueError(
            f"the model turns feature maps into tokens (layer {shown.name!r} {reason}), and which layer is to be "
            "explained is not clear; give target_layers, and reshape_transform to make their output [N, C, h, w]"
        )
    if chosen.reading is None:
        raise ValueError(f"target_layers was not given, and layer {chosen.name!r} {chosen.trouble}")
    return chosen.name


def find_stages(runs: Sequence[LayerRun]) -> list[str]:
    """The last layers of the last three sizes of map: the stages of a network whose maps shrink.

    Raises:
        ValueError: there are maps of one size alone.
    """
    runs = _backbone(runs)
    last: dict[Reading | None, str] = {}
    for index in _candidates(runs):
        if runs[index].maps:
            last.pop(runs[index].reading, None)  # so that the order is that of the last ones
            last[runs[index].reading] = runs[index].name
    if len(last) < 2:
        raise ValueError(
            "the model has maps of one size alone, so which layers to put together is not clear; give target_layers"
        )
    return list(last.values())[-3:]


def _before_attention(runs: Sequence[LayerRun], candidates: Sequence[int], after: int) -> LayerRun | None:
    """What enters the last attention: the last map before it, or the last tokens, which a normalization puts out.

    A normalization of tokens of which no map can be made is returned, too: nothing before it is meant.
    """
    begin = _last_attention(runs, after)
    if begin is None:
        return None
    last = next((index for index in reversed(candidates) if index < begin), 0)
    for run in runs[last + 1 : begin]:
        if run.tokens and run.reading is None and _NORMALIZATION.search(type(run.module).__name__):
            return run
    return runs[last] if last in candidates else None


def _last_attention(runs: Sequence[LayerRun], after: int) -> int | None:
    """Where the last module of attention begins that runs after the last map."""
    for end in range(len(runs) - 1, after, -1):
        run = runs[end]
        if _ATTENTION.search(type(run.module).__name__):
            begin = end
            while begin > 0 and runs[begin - 1].name.startswith(f"{run.name}."):
                begin -= 1
            if not any(_ATTENTION.search(type(inner.module).__name__) for inner in runs[begin:end]):
                return begin
    return None


def _last_tokens(runs: Sequence[LayerRun], candidates: Sequence[int]) -> LayerRun | None:
    """The last tokens, where none of them is set apart: those of a model without attention, which it averages."""
    last = runs[candidates[-1]] if candidates else None
    return last if last is not None and last.reading is not None and last.reading.prefix == 0 else None


def _candidates(runs: Sequence[LayerRun]) -> list[int]:
    """Where the runs are that may be explained."""
    last_run = {run.name: index for index, run in enumerate(runs)}
    return [
        index
        for index, run in enumerate(runs)
        if run.name and run.spatial and not isinstance(run.module, _NOT_FEATURES) and last_run[run.name] == index
    ]


def _backbone(runs: Sequence[LayerRun]) -> Sequence[LayerRun]:
    """What runs in the first module that puts out maps by name; everything where there is none."""
    for index, run in enumerate(runs):
        if run.name and issubclass(run.output_type, Mapping):
            inside = [other for other in runs[:index] if other.name.startswith(f"{run.name}.")]
            if any(other.spatial for other in inside):
                return inside
    return runs
