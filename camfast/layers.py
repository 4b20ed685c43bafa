"""Find and name layers: by module, by dotted name, or the last spatial one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camfast.inputs import Batch
from camfast.suggest import did_you_mean

# What follows the last feature map without making another one.
_NOT_FEATURES = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
)


@dataclass(frozen=True)
class LayerRun:
    """One run of one module in a forward pass."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    """The shape of its output."""

    @property
    def spatial(self) -> bool:
        """Whether the output is [N, C, h, w] with more than one position, as far as can be told."""
        return len(self.shape) == 4 and self.shape[2] * self.shape[3] > 1 and not channels_last(self.module, self.shape)


def channels_last(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a layer's four dimensions are [N, h, w, C], as those of a layer that works on the last one are."""
    if len(shape) != 4:
        return False
    if isinstance(module, nn.LayerNorm):  # subclasses for [N, C, h, w] exist, whose shape tells
        return module.normalized_shape == (shape[3],) and shape[1] != shape[3]
    return isinstance(module, nn.Linear)


def resolve_layers(model: nn.Module, layers: nn.Module | str | Sequence[nn.Module | str]) -> dict[str, nn.Module]:
    """Modules by dotted name, in the order given.

    Raises:
        ValueError: nothing was given, or a layer is not in the model (with the closest names).
        TypeError: a layer is neither a module nor a name.
    """
    # nn.Sequential and nn.ModuleList are sequences too, and are one layer.
    given: Sequence[Any] = [layers] if isinstance(layers, (str, nn.Module)) else layers
    if not isinstance(given, Iterable):
        raise TypeError(f"target_layers is a {type(given).__name__}; expected modules or dotted names")
    if not given:
        raise ValueError("target_layers is empty; give at least one layer, or None to have it found")
    known = dict(model.named_modules(remove_duplicate=False))  # a shared module has several names
    names = {id(module): name for name, module in reversed(known.items())}
    resolved = {}
    for layer in given:
        if isinstance(layer, str):
            if layer not in known:
                raise ValueError(_unknown_layer(layer, known))
            resolved[layer] = known[layer]
        elif isinstance(layer, nn.Module):
            if id(layer) not in names:
                raise ValueError(
                    f"target layer {type(layer).__name__} is not a module of this model; "
                    "take it from the model itself, or give its dotted name"
                )
            resolved[names[id(layer)]] = layer
        else:
            raise TypeError(f"target layer is a {type(layer).__name__}; expected a module or a dotted name")
    return resolved


def _unknown_layer(name: str, known: Mapping[str, nn.Module]) -> str:
    # Top-level names first: they are what is shown where nothing is close.
    candidates = sorted((candidate for candidate in known if candidate), key=lambda candidate: candidate.count("."))
    return f"target layer {name!r} is not in the model; {did_you_mean(name, candidates)}"


def trace_layers(model: nn.Module, batch: Batch) -> list[LayerRun]:
    """Every module that puts out a tensor, in the order in which they finish, from one forward pass without grad."""
    from camfast.hooks import forward_hooks  # hooks names its layers with this file

    named = dict(model.named_modules())
    names, modules = list(named), list(named.values())
    runs: list[LayerRun] = []

    def make_hook(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                runs.append(LayerRun(names[index], module, tuple(output.shape)))

        return hook

    with torch.no_grad(), forward_hooks(modules, make_hook):
        batch.call(model)
    return runs


def find_target_layer(runs: Sequence[LayerRun]) -> str:
    """The last layer with a feature map, as Grad-CAM wants it: after its activation, before pooling.

    Of several modules that finish with the same map the outermost is taken (a ResNet's ``layer4``, not the last ReLU
    inside it). A module that runs again later, without a map, is passed over.

    Raises:
        ValueError: no layer puts out a feature map, or tokens follow the last one (a transformer).
    """
    last_run = {run.name: index for index, run in enumerate(runs)}
    candidates = [
        index
        for index, run in enumerate(runs)
        if run.name and run.spatial and not isinstance(run.module, _NOT_FEATURES) and last_run[run.name] == index
    ]
    if not candidates:
        raise ValueError(
            "no layer of the model puts out a feature map [N, C, h, w]; give target_layers, "
            "and reshape_transform if their output is a sequence of tokens"
        )
    chosen = candidates[-1]
    last = [run for run in runs[chosen + 1 :] if channels_last(run.module, run.shape)]
    if last:
        raise ValueError(
            f"layer {last[-1].name!r} puts out {list(last[-1].shape)}, channels last; give target_layers, "
            "and reshape_transform to make their output [N, C, h, w]"
        )
    tokens = [run for run in runs[chosen + 1 :] if len(run.shape) == 3 and run.shape[1] > 1]
    if tokens:
        raise ValueError(
            f"the model turns feature maps into tokens (layer {tokens[-1].name!r} puts out {list(tokens[-1].shape)}); "
            "give target_layers, and reshape_transform to make their output [N, C, h, w]"
        )
    return runs[chosen].name
