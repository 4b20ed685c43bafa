"""What a plan was made for: whether a model is still built as it was then."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_MEMBERS = ("_modules", "_parameters", "_buffers")


def modules_of(model: nn.Module) -> list[nn.Module]:
    """A model and all modules in it, each once: as ``model.modules()``, in a fraction of its time."""
    found: dict[nn.Module, None] = {model: None}
    waiting = [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


class Structure:
    """The modules, parameters and attributes of a model, to be compared with later ones.

    Attributes count, as a flag may change what ``forward`` does, and so does what is in lists, dicts and sets. What a
    model changes by itself whenever it runs (a counter) does not count. With ``weights``, the values in parameters,
    buffers and tensor attributes count too, as far as PyTorch counts changes: writes through ``.data`` or NumPy are not
    seen.
    """

    def __init__(self, model: nn.Module, weights: bool) -> None:
        modules = modules_of(model)
        # Submodules, parameters and buffers of every module: where they are, and what they were.
        self._members = [vars(module)[kind] for module in modules for kind in _MEMBERS]
        self._held = _values_of(self._members)
        self._lengths = list(map(len, self._members))
        self._attributes = list(map(vars, modules))
        self._then = list(map(dict, self._attributes))
        self._passing: set[tuple[int, str]] = set()
        self._settled = False
        own = [
            (index, name, value)
            for index, attributes in enumerate(self._then)
            for name, value in attributes.items()
            if name not in _OF_EVERY_MODULE
        ]
        self._containers = [
            (index, name, value, type(value)(value)) for index, name, value in own if type(value) in (list, dict, set)
        ]
        tensors: list[Tensor] = []
        if weights:
            tensors = [*model.parameters(), *model.buffers()]
            tensors += [value for _, _, value in own if isinstance(value, Tensor)]
        self._counted = [tensor for tensor in tensors if not tensor.is_inference()]
        self._placed = [tensor for tensor in tensors if type(tensor) in (Tensor, nn.Parameter)]
        self._values = self._values_now()

    def still_holds(self) -> bool:
        """Whether the model is as it was."""
        if list(map(len, self._members)) != self._lengths:
            return False
        if not all(map(operator.is_, _values_of(self._members), self._held)):
            return False
        if self._values_now() != self._values:
            return False
        if not _equal(self._attributes, self._then):
            for index, (attributes, then) in enumerate(zip(self._attributes, self._then, strict=True)):
                if not _equal(attributes, then) and self._changes(index):
                    return False
        return all(_equal(value, then) for _, _, value, then in self._containers)

    def settle(self) -> None:
        """Leaves out what the model has changed by itself in its first run since."""
        if self._settled:
            return
        self._settled = True
        for index in range(len(self._attributes)):
            self._passing |= {(index, name) for name in self._changes(index)}
        self._containers = [kept for kept in self._containers if _equal(kept[2], kept[3])]

    def _values_now(self) -> list[int]:
        """What PyTorch counts of changes to values, and where they lie: another dtype or device lies elsewhere."""
        return [tensor._version for tensor in self._counted] + [tensor.data_ptr() for tensor in self._placed]

    def _changes(self, index: int) -> list[str]:
        """The attributes of a module that have changed; the mode, and others that every module has, are no matter."""
        now, then = dict(self._attributes[index]), self._then[index]  # a copy: another thread may add to it
        return [
            name
            for name in now.keys() | then.keys()
            if name not in _OF_EVERY_MODULE
            and (index, name) not in self._passing
            and not _equal(now.get(name, ...), then.get(name, ...))
        ]


def _values_of(dicts: list[dict[str, Any]]) -> list[Any]:
    # Scripted modules have something else than a dict of modules.
    return list(chain.from_iterable(map(operator.methodcaller("values"), dicts)))


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # of tensors and arrays, which are not the same object
        return False


def is_hooked(modules: Sequence[nn.Module]) -> bool:
    """Whether anyone's hooks may change what the modules put out, or their gradients."""
    return torch.nn.modules.module._has_any_global_hook() or any(  # type: ignore[no-untyped-call]
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )
