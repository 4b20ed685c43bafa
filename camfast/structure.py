"""What a plan was made for: whether a model is still built as it was then."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class Structure:
    """The modules, parameters and plain attributes of a model, to be compared with later ones.

    Attributes count where the model's author wrote the module: a flag may change what ``forward`` does. What a model
    changes by itself whenever it runs (a counter) does not count.
    """

    def __init__(self, model: nn.Module, weights: bool) -> None:
        modules = list(model.modules())
        own = [module for module in modules if not type(module).__module__.startswith("torch.nn.")]
        self._authored = [(vars(module), set(vars(module)), _plain(module)) for module in own]
        self._settled = False
        # Submodules, parameters and buffers of every module: what they were, beside where they are now.
        kinds = ("_modules", "_parameters", "_buffers")
        held = [vars(module)[kind] for module in modules for kind in kinds]
        self._held = [(now, tuple(now.values())) for now in held]
        self._versions: list[tuple[torch.Tensor, int]] = []
        if weights:
            tensors = (*model.parameters(), *model.buffers())
            self._versions = [(tensor, tensor._version) for tensor in tensors if not tensor.is_inference()]

    def still_holds(self) -> bool:
        """Whether the model is as it was."""
        for now, then in self._held:
            if (now or then) and not (len(now) == len(then) and all(map(operator.is_, now.values(), then))):
                return False
        if any(tensor._version != version for tensor, version in self._versions):
            return False
        for attributes, names, plain in self._authored:
            if attributes.keys() != names or any(not _same(attributes[name], value) for name, value in plain.items()):
                return False
        return True

    def settle(self) -> None:
        """Leaves out what the model has changed by itself in its first run since."""
        if self._settled:
            return
        self._settled = True
        for index, (attributes, _, plain) in enumerate(self._authored):
            kept = {name: value for name, value in plain.items() if _same(attributes.get(name, ...), value)}
            self._authored[index] = (attributes, set(attributes), kept)


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if name not in _OF_EVERY_MODULE and isinstance(value, (bool, int, float, str, type(None)))
    }


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))


def is_hooked(modules: tuple[nn.Module, ...]) -> bool:
    """Whether anyone's hooks may change what the modules put out, or their gradients."""
    return torch.nn.modules.module._has_any_global_hook() or any(  # type: ignore[no-untyped-call]
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )
