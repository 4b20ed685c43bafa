"""A part of a model, compiled by torch.compile once for every shape that it meets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from camfast.errors import first_line, is_out_of_memory

# Each takes seconds to minutes and keeps its memory: more shapes than these run without.
MOST_VARIANTS = 8

_compiling = threading.Lock()  # the compiler's settings are those of the process


class Compiled:
    """Calls a part, compiled for just the shapes of its inputs.

    Every variant is a graph of its own to the compiler, which so never has to look at more than the shapes seen here.
    What it cannot compile runs as it is, and ``trouble`` says why.
    """

    def __init__(self, part: fx.GraphModule, frozen: bool) -> None:
        self.part = part
        self.frozen = frozen
        """Whether weights are constants to the compiler, which may then pack them; for calls without gradients."""
        self.trouble: str | None = None
        self._variants: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        key = (torch.is_grad_enabled(), _signature(inputs))
        variant = self._variants.get(key)
        if variant is None:
            return self._first_call(key, inputs)
        return variant(*inputs)

    def knows(self, *inputs: Any) -> bool:
        """Whether inputs of such shapes have been met."""
        return (torch.is_grad_enabled(), _signature(inputs)) in self._variants

    def _first_call(self, key: Any, inputs: tuple[Any, ...]) -> Any:
        with _compiling:
            if key in self._variants:  # another thread was quicker
                return self._variants[key](*inputs)
            if len(self._variants) >= MOST_VARIANTS:
                self.trouble = self.trouble or f"more than {MOST_VARIANTS} shapes: others run without torch.compile"
                return self.part(*inputs)
            import torch._dynamo  # takes seconds
            import torch._functorch.config
            import torch._inductor.config

            variant = torch.compile(
                fx.GraphModule(
                    self.part, self.part.graph
                ),  # anew, so that variants do not meet in the compiler's cache
                fullgraph=True,
                dynamic=False,
                options={"guard_filter_fn": lambda guards: [False] * len(guards)},
            )
            try:
                with (
                    torch._inductor.config.patch(freezing=self.frozen),
                    torch._functorch.config.patch(donated_buffer=False),
                ):
                    result = variant(*inputs)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self.trouble = f"torch.compile failed ({first_line(error)})"
                self._variants[key] = self.part
                return self.part(*inputs)
            self._variants[key] = variant
            return result


def _signature(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return (tuple(inputs.shape), inputs.stride(), inputs.dtype, inputs.device, inputs.requires_grad)
    if isinstance(inputs, (tuple, list)):
        return tuple(map(_signature, inputs))
    return inputs
