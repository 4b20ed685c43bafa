"""Two ways to get what an explanation is made of: the model as it is, with hooks; and parts of its graph."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from camfast import passes
from camfast.errors import first_line, is_out_of_memory
from camfast.inputs import Batch, normal_tensors
from camfast.optimize.compiled import Compiled
from camfast.optimize.split import Parts
from camfast.passes import ForwardPass, GradientPass, Select
from camfast.rest import Rest
from camfast.structure import is_hooked
from camfast.tail import Tail
from camfast.targets import Classes, Scores
from camfast.trace import Trace

Result = TypeVar("Result")


class Runner(Protocol):
    """Runs a model forward, and back to the target layers."""

    def forward(self, batch: Batch) -> ForwardPass:
        """Activations and output."""

    def gradient(self, batch: Batch, targets: Classes | Scores) -> GradientPass:
        """Activations, output, and the gradients of the scores of the targets."""

    def output(self, batch: Batch) -> Tensor:
        """The output alone."""

    def troubles(self) -> list[str | None]:
        """What has turned out to be impossible, if anything has."""


class ModelRunner(Runner, Protocol):
    """A runner that can also begin in the middle."""

    def rest(self, name: str) -> Rest:
        """What follows a layer, by itself; the model itself runs, whatever runs otherwise."""


class Hooked:
    """The model as it is, with hooks for the length of a call.

    With a tail, whose form was proved, one forward pass without a graph is all; but for calls during which somebody's
    hooks are on the modules that are watched.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        select: Select,
        tail: Tail | None,
        watched: tuple[nn.Module, ...],
        traced: Trace | None = None,
    ) -> None:
        self._traced = traced
        self._rests: dict[str, Rest] = {}
        self._model = model
        self._layers = layers
        self._select = select
        self._tail = tail
        self._watched = watched
        self._graph_before_layer = False  # until a call finds that the model needs it

    def forward(self, batch: Batch) -> ForwardPass:
        return self._forward(batch, kept=False)

    def gradient(self, batch: Batch, targets: Classes | Scores) -> GradientPass:
        if self._tail is not None and not is_hooked(self._watched):
            # Pooling and BatchNorm leave their input as it is; an activation may be one in place.
            seen = self._forward(batch, kept=not self._tail.between.may_change_its_input())
            return _closed_form(self._tail, seen.activations, targets, seen.output)
        result, self._graph_before_layer = passes.forward_and_gradient(
            self._model, self._layers, batch, self._select, targets.score, self._graph_before_layer
        )
        return result

    def output(self, batch: Batch) -> Tensor:
        return passes.forward(self._model, {}, batch, self._select).output

    def rest(self, name: str) -> Rest:
        if name not in self._rests:
            self._rests[name] = Rest(self._model, name, self._layers[name], self._select, self._traced)
        return self._rests[name]

    def troubles(self) -> list[str | None]:
        return []

    def _forward(self, batch: Batch, kept: bool) -> ForwardPass:
        return passes.forward(self._model, self._layers, batch, self._select, kept=kept)


class Converting:
    """Another runner, on inputs that are converted before; outputs come in the precision that the model has."""

    def __init__(self, inner: Runner, convert: Callable[[Tensor], Tensor], output_type: torch.dtype) -> None:
        self._inner = inner
        self._convert = convert
        self._output_type = output_type

    def forward(self, batch: Batch) -> ForwardPass:
        found = self._inner.forward(normal_tensors(batch).map(self._convert))
        return dataclasses.replace(found, output=found.output.to(self._output_type))

    def gradient(self, batch: Batch, targets: Classes | Scores) -> GradientPass:
        found = self._inner.gradient(normal_tensors(batch).map(self._convert), targets)
        return dataclasses.replace(found, output=found.output.to(self._output_type))

    def output(self, batch: Batch) -> Tensor:
        return self._inner.output(normal_tensors(batch).map(self._convert)).to(self._output_type)

    def troubles(self) -> list[str | None]:
        return self._inner.troubles()


class Split:
    """Two parts of the model's graph, the first of which never needs a gradient.

    With a tail the first part is enough: the output and the gradient come from the tail, in the precision of the model.
    """

    def __init__(
        self,
        parts: Parts,
        names: list[str],
        tail: Tail | None,
        convert: Callable[[Tensor], Tensor],
        output_type: torch.dtype | None,
        *,
        before_is_compiled: bool,
        after_is_compiled: bool,
        pad: bool,
    ) -> None:
        self._parts = parts
        self._names = names
        self._tail = tail
        self._convert = convert
        self._output_type = output_type
        self._sizes = _Sizes() if pad else None
        before, after = parts.before, parts.after
        self.before: Any = Compiled(before, frozen=True) if before_is_compiled else before
        self.after: Any = Compiled(after, frozen=False) if after_is_compiled and after is not None else after

    def forward(self, batch: Batch) -> ForwardPass:
        samples, batch = len(batch), self._sized(batch)
        return self._forward(batch).first(samples)

    def gradient(self, batch: Batch, targets: Classes | Scores) -> GradientPass:
        samples, batch = len(batch), self._sized(batch)
        return self._gradient(batch, targets.padded(len(batch))).first(samples)

    def output(self, batch: Batch) -> Tensor:
        return self.forward(batch).output

    def troubles(self) -> list[str | None]:
        return [
            f"{where} the layer: {part.trouble}"
            for where, part in (("up to", self.before), ("after", self.after))
            if isinstance(part, Compiled) and part.trouble is not None
        ]

    def _sized(self, batch: Batch) -> Batch:
        """The batch, padded to a size that is compiled where there is one."""
        return batch if self._sizes is None else batch.padded(self._sizes.choose(batch))

    def _forward(self, batch: Batch) -> ForwardPass:
        with self._ready(batch) as tensors, torch.no_grad():
            begun = self.before(tensors)
            if self._tail is not None:
                (activations,) = begun
                return ForwardPass({self._names[0]: activations}, self._tail.output(activations, self._output_type))
            assert self._parts.after is not None  # as there is no tail
            output, *later = self._parts.after(*begun)
            return ForwardPass(self._by_name(begun, later), self._typed(output))

    def _typed(self, output: Tensor) -> Tensor:
        return output if self._output_type is None else output.to(self._output_type)

    def _gradient(self, batch: Batch, targets: Classes | Scores) -> GradientPass:
        with self._ready(batch) as tensors:
            with torch.no_grad():
                begun = self.before(tensors)
            if self._tail is not None:
                (activations,) = begun
                return _closed_form(self._tail, {self._names[0]: activations}, targets, dtype=self._output_type)
            count = len(self._parts.first)
            with torch.enable_grad():
                start = [activations.detach().requires_grad_() for activations in begun[:count]]
                # Compiled code cannot go back for several classes at once.
                after = self._parts.after if isinstance(targets, Classes) and targets.several else self.after
                assert after is not None  # as there is no tail
                output, *later = after(*start, *begun[count:])
                scores, classes = targets.score(self._typed(output))
            activations = self._by_name(start, later)
            found = passes.gradients_of(scores, list(activations.values()))
        gradients = passes.by_name(activations, found)
        detached = {name: tensor.detach() for name, tensor in activations.items()}
        return GradientPass(detached, gradients, None, self._typed(output.detach()), classes)

    def _by_name(self, begun: Any, later: list[Tensor]) -> dict[str, Tensor]:
        found = {
            **dict(zip(self._parts.first, begun, strict=False)),
            **dict(zip(self._parts.later, later, strict=True)),
        }
        return {name: found[name] for name in self._names}

    @contextlib.contextmanager
    def _ready(self, batch: Batch) -> Any:
        device = batch.images.device.type
        with torch.inference_mode(False), torch.autocast(device, enabled=False):
            yield tuple(self._convert(tensor) for tensor in normal_tensors(batch).tensors)


class Guarded:
    """A runner, and another that takes over for good where the first one fails and the other does not."""

    def __init__(self, preferred: Runner, otherwise: ModelRunner) -> None:
        self.preferred: Runner | None = preferred
        self._otherwise = otherwise
        self._trouble: str | None = None

    def forward(self, batch: Batch) -> ForwardPass:
        return self._tried(lambda runner: runner.forward(batch))

    def gradient(self, batch: Batch, targets: Classes | Scores) -> GradientPass:
        return self._tried(lambda runner: runner.gradient(batch, targets))

    def output(self, batch: Batch) -> Tensor:
        return self._tried(lambda runner: runner.output(batch))

    def rest(self, name: str) -> Rest:
        return self._otherwise.rest(name)

    def troubles(self) -> list[str | None]:
        return [self._trouble, *([] if self.preferred is None else self.preferred.troubles())]

    def _tried(self, run: Callable[[Runner], Result]) -> Result:
        preferred = self.preferred
        if preferred is None:
            return run(self._otherwise)
        try:
            return run(preferred)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = first_line(error)
        result = run(self._otherwise)  # what is wrong with the call itself is raised here
        self._trouble = f"the copy failed, and the model itself runs instead ({reason})"
        self.preferred = None
        return result


class _Sizes:
    """Which batches are compiled for: a smaller one is padded when it first comes, and compiled when it comes again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compiled: dict[Any, set[int]] = {}
        self._seen: dict[Any, set[int]] = {}

    def choose(self, batch: Batch) -> int:
        """The size that a batch is to have."""
        shape, samples = tuple(batch.images.shape[1:]), len(batch)
        with self._lock:
            compiled = self._compiled.setdefault(shape, set())
            seen = self._seen.setdefault(shape, set())
            larger = [size for size in compiled if size > samples]
            if samples in compiled or (larger and samples not in seen):
                seen.add(samples)
                return samples if samples in compiled else min(larger)
            compiled.add(samples)
            return samples


def _closed_form(
    tail: Tail,
    found: dict[str, Tensor],
    targets: Classes | Scores,
    output: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> GradientPass:
    """The gradient at the one layer of which activations were found; the output too, where it is not given."""
    ((name, activations),) = found.items()
    with torch.inference_mode(False), torch.no_grad():
        output, gradient, classes = tail.gradient(activations, targets, output, dtype)
        mean = tail.mean(gradient, activations)
        gradients = {} if mean is not None else {name: tail.spread(gradient, activations)}
        return GradientPass(found, gradients, mean, output, classes)
