"""What a plan was made for: whether a model is still built as it was then."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, type(None))


class Structure:
    """The modules, parameters and plain attributes of a model, to be compared with later ones.

    Attributes count where the model's author wrote the module: a flag may change what ``forward`` does. What a model
    changes by itself whenever it runs (a counter) does not count.
    """

    def __init__(self, model: nn.Module, weights: bool) -> None:
        self._weights = weights
        self._passing: frozenset[Any] | None = None  # until the model has run
        self._state = self._look(model)

    def settle(self, model: nn.Module) -> None:
        """Leaves out what the model has changed by itself in its first run since."""
        if self._passing is None:
            now = self._look(model)
            passing = {key for key in self._state.keys() | now.keys() if self._state.get(key, ...) != now.get(key, ...)}
            self._state = {key: value for key, value in now.items() if key not in passing}
            self._passing = frozenset(passing)

    def still_holds(self, model: nn.Module) -> bool:
        """Whether the model is as it was."""
        return self._look(model) == self._state

    def _look(self, model: nn.Module) -> dict[Any, Any]:
        state: dict[Any, Any] = {}
        for module in model.modules():
            tensors = (*module._parameters.values(), *module._buffers.values())
            if self._weights:
                state[id(module)] = tuple(
                    (id(t), None if t is None or t.is_inference() else t._version) for t in tensors
                )
            else:
                state[id(module)] = tuple(map(id, tensors))
            if not type(module).__module__.startswith("torch.nn."):
                for name, value in list(vars(module).items()):  # another thread may add to them
                    if name not in _OF_EVERY_MODULE and isinstance(value, _PLAIN):
                        state[id(module), name] = value
        for key in self._passing or ():
            state.pop(key, None)
        return state


def is_hooked(modules: tuple[nn.Module, ...]) -> bool:
    """Whether anyone's hooks may change what the modules put out, or their gradients."""
    return torch.nn.modules.module._has_any_global_hook() or any(  # type: ignore[no-untyped-call]
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )
