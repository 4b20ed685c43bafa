"""Layers by module, dotted name, glob or type."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from camfast.suggest import did_you_mean

Layer: TypeAlias = nn.Module | str | type[nn.Module]
"""A module, its dotted name, a glob of names (``"layer*.conv*"``), or a type of modules."""
Layers: TypeAlias = Layer | Sequence[Layer]


def resolve_layers(model: nn.Module, layers: Layers, argument: str = "target_layers") -> dict[str, nn.Module]:
    """Modules by dotted name, in the order given; those of a glob or a type in the order of the model, each once.

    Args:
        argument: the name of ``layers`` where they were given, for errors.

    Raises:
        ValueError: nothing was given, a layer is not in the model, or a glob or a type matches none (with the closest
            names).
        TypeError: a layer is neither a module, nor a name, nor a type of modules.
    """
    # nn.Sequential and nn.ModuleList are sequences too, and are one layer.
    given: Any = [layers] if isinstance(layers, (str, nn.Module, type)) else layers
    if not isinstance(given, Iterable):
        raise TypeError(f"{argument} is a {type(given).__name__}; expected modules, dotted names, globs or types")
    resolved: dict[str, nn.Module] = {}
    known = dict(model.named_modules(remove_duplicate=False))  # a shared module has several names
    for layer in given:
        resolved.update(_matching(layer, known, "target layer" if argument == "target_layers" else "layer"))
    if not resolved:
        raise ValueError(f"{argument} is empty; give at least one layer{_OR_NONE.get(argument, '')}")
    return resolved


_OR_NONE = {"target_layers": ", or None to have it found"}


def _matching(layer: Any, known: Mapping[str, nn.Module], called: str) -> dict[str, nn.Module]:
    if isinstance(layer, nn.Module):
        for name, module in known.items():
            if module is layer:
                return {name: module}
        raise ValueError(
            f"{called} {type(layer).__name__} is not a module of this model; "
            "take it from the model itself, or give its dotted name"
        )
    if isinstance(layer, str):
        if layer in known:
            return {layer: known[layer]}
        globbed = {name: module for name, module in known.items() if name and fnmatch.fnmatchcase(name, layer)}
        if not globbed:
            raise ValueError(f"{called} {layer!r} {_unknown_layer(layer, known)}")
        return _each_once(globbed)
    if isinstance(layer, type) and issubclass(layer, nn.Module):
        of_type = {name: module for name, module in known.items() if isinstance(module, layer)}
        if not of_type:
            types = dict.fromkeys(type(module).__name__ for name, module in known.items() if name)
            raise ValueError(f"the model has no layer of type {layer.__name__}; {did_you_mean(layer.__name__, types)}")
        return _each_once(of_type)
    found = f"the type {layer.__name__}" if isinstance(layer, type) else f"a {type(layer).__name__}"
    raise TypeError(f"{called} is {found}; expected a module, a dotted name, a glob or a type of modules")


def _each_once(named: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """A shared module under the first of its names."""
    firsts: dict[nn.Module, str] = {}
    for name, module in named.items():
        firsts.setdefault(module, name)
    return {name: module for module, name in firsts.items()}


def _unknown_layer(name: str, known: Mapping[str, nn.Module]) -> str:
    # Top-level names first: they are what is shown where nothing is close.
    candidates = sorted((candidate for candidate in known if candidate), key=lambda candidate: candidate.count("."))
    problem = "matches no layer of the model" if _is_glob(name) else "is not in the model"
    return f"{problem}; {did_you_mean(name, candidates)}"


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")
