"""What the user's own forward pass leaves behind for a later call: hooks that look, and change nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from camfast.compat.torchcam.methods._seen import SeenInput
from camfast.hooks import require_tensor
from camfast.tokens import Reading, Unreadable, plainly_maps, read
from camfast.trees import mapped

Transform = Callable[[Any], Tensor]


class Watch:
    """Hooks on a model and on some of its layers, and what the last forward pass under them was.

    The extractor owns it, and it knows nothing of the extractor: hooks do not keep that alive. What is copied or
    pickled with a model is a watch that sees nothing.
    """

    def __init__(self, names: list[str], transform: Transform | None = None, enabled: bool = False) -> None:
        self.enabled = enabled
        self.handles: list[RemovableHandle] = []
        self._names = names
        self._transform = transform
        self._registrations: list[Callable[[], RemovableHandle]] = []
        self.reset()

    def __reduce__(self) -> tuple[Any, ...]:
        return Watch, ([],)

    def reset(self) -> None:
        """Forgets the last forward pass."""
        self.seen: SeenInput | None = None
        self.activations: list[Tensor | None] = [None] * len(self._names)
        """By layer: feature maps [N, C, h, w], a copy that nothing else changes."""
        self.edges: list[GradientEdge | None] = [None] * len(self._names)
        """By layer: where in the graph its output was made; None where there is no graph."""
        self.troubles: list[Exception | None] = [None] * len(self._names)
        """By layer: why its output is no map."""
        self._readings: list[Reading | None] = [None] * len(self._names)

    def forget_graph(self) -> None:
        """Lets go of the user's graph."""
        self.edges = [None] * len(self._names)

    def add_input(self, model: nn.Module) -> None:
        """Sees what goes into a model, from now on."""
        self.add(functools.partial(model.register_forward_pre_hook, self._enter, with_kwargs=True))

    def add_layers(self, layers: Mapping[str, nn.Module]) -> None:
        """Sees what layers put out, from now on."""
        for index, layer in enumerate(layers.values()):
            self.add(functools.partial(layer.register_forward_hook, functools.partial(self._leave, index)))

    def remove(self) -> None:
        """Takes every hook away."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Sees nothing for the length of a block."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    @contextmanager
    def away(self) -> Iterator[None]:
        """No hook is on the model for the length of a block: it runs as the user made it, and can be copied."""
        there = bool(self.handles)
        self.remove()
        try:
            yield
        finally:
            if there:
                self.handles += [register() for register in self._registrations]

    def plain_activations(self) -> list[Tensor] | None:
        """By layer what it put out, where that is a map as it is; None where one is not."""
        found = [maps for maps in self.activations if maps is not None]
        as_they_are = self._transform is None and not any(self._readings)
        return found if as_they_are and len(found) == len(self.activations) else None

    def maps(self, index: int, output: Any) -> Tensor:
        """The gradient at a layer as maps [N, C, h, w], read as its activations were."""
        if self._transform is not None:
            return _checked(self._transform(output))
        reading = self._readings[index]
        return output if reading is None else reading.maps(output)

    def add(self, register: Callable[[], RemovableHandle]) -> None:
        """Puts a hook on a module, for as long as the others are there."""
        self._registrations.append(register)
        self.handles.append(register())

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.enabled and not recomputes():
            self.reset()
            self.seen = SeenInput.of(args, kwargs)

    def _leave(self, index: int, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self.enabled or recomputes():
            return
        # The place in the graph, and not the tensor, which an operation in place may turn into another.
        differentiable = isinstance(output, Tensor) and output.requires_grad
        self.edges[index] = get_gradient_edge(output) if differentiable else None
        self.activations[index], self.troubles[index] = None, None
        with torch.no_grad():
            try:
                self.activations[index] = self._activations(index, layer, output).clone()
            except Exception as error:  # raised in the call: the user's forward pass is not to suffer
                self.troubles[index] = error.with_traceback(None)

    def _activations(self, index: int, layer: nn.Module, output: Any) -> Tensor:
        detached = mapped(Tensor.detach, output)
        if self._transform is None:
            tensor = require_tensor(self._names[index], detached)
            self._readings[index] = self._reading(self._names[index], layer, tensor)
        return self.maps(index, detached)

    def _reading(self, name: str, layer: nn.Module, tensor: Tensor) -> Reading | None:
        """How tokens, or maps with their channels last, are maps; None for what is to be taken as it is."""
        shape, size = tuple(tensor.shape), () if self.seen is None else self.seen.size
        if len(shape) < 3:
            raise ValueError(
                f"layer {name!r} puts out {list(shape)}; expected a map [N, C, h, w]. Choose another layer"
            )
        tokens = len(shape) == 3 and len(size) > 1
        if not tokens and (len(shape) != len(size) + 2 or plainly_maps(layer, shape, size)):
            return None
        try:
            return read(layer, shape, shape[0], size, ())
        except Unreadable as reason:
            raise ValueError(f"layer {name!r} {reason}") from None


def _checked(maps: Any) -> Tensor:
    if not isinstance(maps, Tensor) or maps.dim() < 3:
        found = list(maps.shape) if isinstance(maps, Tensor) else f"a {type(maps).__name__}"
        raise ValueError(f"reshape_transform made {found} of a layer's output; expected [N, C, h, w]")
    return maps


def recomputes() -> bool:
    """Whether a backward pass runs the layer again, for gradient checkpointing."""
    return bool(torch._C._current_graph_task_id() != -1)
