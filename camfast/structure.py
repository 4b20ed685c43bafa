"""What a plan was made for: whether a model is still built as it was then."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class Structure:
    """The modules, parameters and attributes of a model, to be compared with later ones.

    Attributes count, as a flag may change what ``forward`` does, and so does what is in lists, dicts and sets. What a
    model changes by itself whenever it runs (a counter) does not count. With ``weights``, the values in parameters,
    buffers and tensor attributes count too, as far as PyTorch counts changes: writes through ``.data`` or NumPy are not
    seen.
    """

    def __init__(self, model: nn.Module, weights: bool) -> None:
        modules = list(model.modules())
        kinds = ("_modules", "_parameters", "_buffers")
        # Submodules, parameters and buffers of every module: what they were, beside where they are now.
        self._held = [
            (now, tuple(now.values())) for module in modules for now in (vars(module)[kind] for kind in kinds)
        ]
        self._attributes = [(vars(module), dict(vars(module))) for module in modules]
        self._passing: set[tuple[int, str]] = set()
        self._settled = False
        own = [
            (index, name, value)
            for index, (attributes, _) in enumerate(self._attributes)
            for name, value in attributes.items()
            if name not in _OF_EVERY_MODULE
        ]
        self._containers = [
            (index, name, value, type(value)(value)) for index, name, value in own if type(value) in (list, dict, set)
        ]
        self._weights: list[tuple[Tensor, Any]] = []
        if weights:
            tensors = [value for _, _, value in own if isinstance(value, Tensor)]
            self._weights = [(t, _state(t)) for t in (*model.parameters(), *model.buffers(), *tensors)]

    def still_holds(self) -> bool:
        """Whether the model is as it was."""
        for now, then in self._held:
            if (now or then) and not (len(now) == len(then) and all(map(operator.is_, now.values(), then))):
                return False
        if any(_state(tensor) != state for tensor, state in self._weights):
            return False
        for index, (attributes, then_attributes) in enumerate(self._attributes):
            # Values that are the same object are equal without being looked at.
            if not _equal(attributes, then_attributes) and self._changes(index):
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

    def _changes(self, index: int) -> list[str]:
        """The attributes of a module that have changed; the mode, and others that every module has, are no matter."""
        now, then = self._attributes[index]
        now = dict(now)  # to which another thread may add
        return [
            name
            for name in now.keys() | then.keys()
            if name not in _OF_EVERY_MODULE
            and (index, name) not in self._passing
            and not _equal(now.get(name, ...), then.get(name, ...))
        ]


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # of tensors and arrays, which are not the same object
        return False


def _state(tensor: Tensor) -> Any:
    return (
        None if tensor.is_inference() else tensor._version,
        tensor.data_ptr() if type(tensor) in (Tensor, nn.Parameter) else 0,
        tensor.dtype,
        tensor.device,
    )


def is_hooked(modules: tuple[nn.Module, ...]) -> bool:
    """Whether anyone's hooks may change what the modules put out, or their gradients."""
    return torch.nn.modules.module._has_any_global_hook() or any(  # type: ignore[no-untyped-call]
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )
