"""Reads what target layers put out as maps: decided once for each shape, and remembered."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from camfast.errors import is_out_of_memory
from camfast.hooks import require_tensor
from camfast.inputs import Batch
from camfast.layer_runs import LayerRun, trace_sample
from camfast.passes import ForwardPass, GradientPass
from camfast.runners import ModelRunner
from camfast.targets import Classes, Scores
from camfast.tokens import Reading, Shape, Unreadable, plainly_maps, read

# Shapes of images and outputs that are remembered at a time.
_MOST = 1024


class MapReader:
    """Makes [N, C, h, w] of what the layers of one model put out.

    Maps need no more than their shape. For anything else the shapes in the whole model are looked at, in one forward
    pass with the first batch; for images of other sizes the grid follows from that.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], runs: list[LayerRun] | None = None) -> None:
        """
        Args:
            model: what runs.
            layers: the target layers, by name.
            runs: what the model's layers put out, where that is known already.
        """
        self._model = model
        self._layers = layers
        self._runs = runs
        self._known: dict[tuple[str, Shape, Shape], Reading | Unreadable] = {}
        self._here = threading.local()
        """The size of the images that this thread explains."""

    def watch(self, runner: ModelRunner) -> ModelRunner:
        """The runner, with an eye on the shapes."""
        return cast(ModelRunner, _Watched(runner, self))

    def learn(self, batch: Batch, activations: Mapping[str, Any]) -> None:
        """Looks at what the layers made of a batch."""
        size = tuple(batch.images.shape[2:])
        self._here.size = size
        for name, tensor in activations.items():
            if isinstance(tensor, Tensor):
                key = name, tuple(tensor.shape[1:]), size
                if key not in self._known:
                    if len(self._known) >= _MOST:
                        self._known.clear()
                    self._known[key] = self._decide(name, tuple(tensor.shape), batch)

    def maps(self, name: str, output: Any) -> Tensor:
        """What a layer put out, or a gradient of that shape, as [N, C, h, w].

        Raises:
            TypeError: a layer puts out no tensor.
            ValueError: it puts out no map, or one that may be read in several ways; the message shows how to help.
        """
        tensor = require_tensor(name, output)
        reading = self.reading(name, tensor)
        return tensor if reading is None else reading.maps(tensor)

    def reading(self, name: str, tensor: Tensor) -> Reading | None:
        """How such an output is a map; None where it was not looked at.

        Raises:
            ValueError: as :meth:`maps`.
        """
        reading = self._known.get((name, tuple(tensor.shape[1:]), getattr(self._here, "size", ())))
        if isinstance(reading, Unreadable):
            raise ValueError(f"layer {name!r} {reading}")
        return reading

    def _decide(self, name: str, shape: Shape, batch: Batch) -> Reading | Unreadable:
        size = tuple(batch.images.shape[2:])
        if plainly_maps(self._layers[name], shape, size):
            return Reading(shape[2:])
        try:
            if self._runs is None:
                self._runs = _traced(self._model, batch)
            return self._read(name, shape, batch, size)
        except Unreadable as reason:
            return reason

    def _read(self, name: str, shape: Shape, batch: Batch, size: Shape) -> Reading:
        runs = self._runs or []
        own = next((run for run in reversed(runs) if run.name == name and run.reading is not None), None)
        if own is not None and own.reading is not None and shape[0] == len(batch):
            if own.size == size and own.shape[1:] == shape[1:]:
                return own.reading
            if len(own.shape) == len(shape):
                return own.reading.at(shape, own.size, size)
        seen = {run.reading.grid for run in runs if run.size == size and run.maps and run.reading is not None}
        return read(self._layers[name], shape, len(batch), size, seen)

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self._model, "_layers": self._layers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_model"], state["_layers"])  # type: ignore[misc]


class _Watched:
    """A runner whose passes a reader learns from; all else is the runner's own."""

    def __init__(self, runner: ModelRunner, reader: MapReader) -> None:
        self._runner = runner
        self._reader = reader

    def forward(self, batch: Batch) -> ForwardPass:
        found = self._runner.forward(batch)
        self._reader.learn(batch, found.activations)
        return found

    def gradient(self, batch: Batch, targets: Classes | Scores) -> GradientPass:
        found = self._runner.gradient(batch, targets)
        self._reader.learn(batch, found.activations)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def _traced(model: nn.Module, batch: Batch) -> list[LayerRun]:
    try:
        return trace_sample(model, batch)
    except Exception as error:  # it ran before, with the samples of this batch
        if is_out_of_memory(error):
            raise
        return []
