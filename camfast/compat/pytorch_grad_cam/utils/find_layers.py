"""Finds and replaces modules inside a model."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from camfast.compat._missing import missing

__getattr__ = missing(__name__)


def replace_layer_recursive(model: nn.Module, old_layer: nn.Module, new_layer: nn.Module) -> bool:
    """Puts a module in the place of another, once. Says whether that was found."""
    for name, child in model._modules.items():
        if child is old_layer:
            model._modules[name] = new_layer
            return True
        if child is not None and replace_layer_recursive(child, old_layer, new_layer):
            return True
    return False


def replace_all_layer_type_recursive(model: nn.Module, old_layer_type: type[nn.Module], new_layer: nn.Module) -> None:
    """Puts a module in the place of all of a type."""
    for name, child in list(model._modules.items()):
        if isinstance(child, old_layer_type):
            model._modules[name] = new_layer
        elif child is not None:
            replace_all_layer_type_recursive(child, old_layer_type, new_layer)


def find_layer_types_recursive(model: nn.Module, layer_types: Collection[type[nn.Module]]) -> list[nn.Module]:
    """The modules inside a model that are of one of the types, and not of a subclass, each before those inside it."""
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def find_layer_predicate_recursive(model: nn.Module, predicate: Callable[[nn.Module], bool]) -> list[nn.Module]:
    """The modules inside a model for which ``predicate`` holds, each before those inside it."""
    found = []
    for child in model._modules.values():
        if child is not None:
            found += [child] if predicate(child) else []
            found += find_layer_predicate_recursive(child, predicate)
    return found
