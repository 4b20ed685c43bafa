"""Layers by module, or by dotted name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from camfast.suggest import did_you_mean


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
