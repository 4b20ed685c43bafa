"""The part of a model that follows a layer, by itself: for methods that change activations and look at the output."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast import passes
from camfast.errors import is_out_of_memory
from camfast.hooks import forward_hooks
from camfast.inputs import Batch, normal_tensors
from camfast.optimize.split import Rest as Graphs
from camfast.optimize.split import rest_of
from camfast.passes import Select, prepared
from camfast.proof import distance, spared
from camfast.trace import Trace

Continue = Callable[[Tensor, Tensor], Tensor]
"""Takes activations of the layer, and of which sample each is; gives the output of the model."""


class Rest:
    """What a model makes of activations of one of its layers.

    Where the model's graph is known, only what follows the layer runs, which is checked against the model. Elsewhere
    the whole model runs, and a hook puts the activations in.
    """

    def __init__(self, model: nn.Module, name: str, layer: nn.Module, select: Select, traced: Trace | None) -> None:
        self._model = model
        self._name = name
        self._layer = layer
        self._select = select
        self._traced = traced
        self._graphs: Graphs | None = None
        self._decided = False
        self._lock = threading.Lock()

    def of(self, batch: Batch) -> Continue:
        """What continues with activations of the samples of a batch, in a block that is ``prepared``, without grad."""
        with self._lock:
            if not self._decided:
                self._graphs = self._checked_graphs(batch)
                self._decided = True
        if self._graphs is None:
            return self._with_a_hook(batch)
        return _with_graphs(self._graphs, batch)

    def _checked_graphs(self, batch: Batch) -> Graphs | None:
        """The graphs, if they make of activations what the model made of them, also of more than there are samples."""
        if self._traced is None:
            return None
        sample = normal_tensors(batch.part(0, 2))
        twice = torch.arange(len(sample)).repeat(2)
        try:
            with prepared(self._model), spared(self._model, batch.images.device), torch.no_grad():
                seen = passes.forward(self._model, {self._name: self._layer}, sample.map(torch.clone), self._select)
                graphs = rest_of(self._traced, self._name)
                found = _with_graphs(graphs, sample)(seen.activations[self._name][twice], twice)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return None
        expected = seen.output[twice]
        allowed = {torch.float64: 1e-8, torch.float32: 1e-4}.get(expected.dtype, 5e-2)
        return graphs if found.shape == expected.shape and distance(expected, found) <= allowed else None

    def _with_a_hook(self, batch: Batch) -> Continue:
        last = self._runs_of_the_layer(batch)

        def run(activations: Tensor, samples: Tensor) -> Tensor:
            runs = itertools.count(1)

            def replace(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
                return activations.to(output.dtype) if next(runs) == last else None

            repeated = batch.taken(samples)
            with forward_hooks([self._layer], lambda index: replace):
                return self._select(repeated.call(self._model))

        return run

    def _runs_of_the_layer(self, batch: Batch) -> int:
        """How often it runs in one forward pass: it counts with its last run."""
        runs = itertools.count()

        def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            next(runs)

        with forward_hooks([self._layer], lambda index: count):
            normal_tensors(batch).map(torch.clone).call(self._model)
        return next(runs)


def _with_graphs(graphs: Graphs, batch: Batch) -> Continue:
    ready = normal_tensors(batch)
    carried = () if graphs.before is None else graphs.before(ready.map(torch.clone).tensors)
    dtype = next((t.dtype for t in graphs.after.parameters() if t.is_floating_point()), batch.images.dtype)

    def run(activations: Tensor, samples: Tensor) -> Tensor:
        own = [
            len(samples) if size else _of_samples(value, samples, len(ready))
            for value, size in zip(carried, graphs.sizes, strict=True)
        ]
        output: Tensor = graphs.after(activations.to(dtype), *own)[0]
        return output

    return run


def _of_samples(value: Any, samples: Tensor, count: int) -> Any:
    if isinstance(value, Tensor) and value.dim() > 0 and len(value) == count:
        return value[samples.to(value.device)]
    return value
