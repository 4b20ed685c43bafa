"""Copies of a model that run in its place: what was asked for is tried, then less of it, until something is right."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from camfast import passes
from camfast.errors import first_line, is_out_of_memory
from camfast.inputs import Batch, normal_tensors
from camfast.optimize import onednn
from camfast.optimize.attention import spell_out_attention
from camfast.optimize.compiled import Compiled
from camfast.optimize.simplify import simplify
from camfast.optimize.split import Parts, copied, split
from camfast.passes import ForwardPass
from camfast.plan import Plan
from camfast.proof import (
    PROVED_SAMPLES,
    Subject,
    apart,
    apart_as_a_whole,
    gradients_apart,
    random_score,
    samples_are_independent,
)
from camfast.runners import Converting, Guarded, ModelRunner, Runner, Split
from camfast.tail import Tail
from camfast.targets import Scores
from camfast.trace import Trace

LEVELS: dict[str, tuple[str, ...]] = {"none": (), "inference": ("inference",), "compile": ("compile", "inference")}
"""What is tried for each value of ``optimize``."""


PlanAsItIs = Callable[[Subject, Batch], tuple[ModelRunner, Plan]]


class Copies:
    """What can be made of a model, and is right on the batch at hand."""

    def __init__(
        self,
        subject: Subject,
        batch: Batch,
        traced: Trace | None,
        tail: Tail | None,
        precision: torch.dtype | None = None,
    ) -> None:
        self._subject = subject
        self._given = batch
        self._traced = traced
        self._tail = tail
        tensors = (*subject.model.parameters(), *subject.model.buffers())
        has_it = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} <= {precision}
        self._dtype = None if has_it else precision
        """None for the precision that the model has."""
        self._notes: list[str] = []

    def best(
        self, optimize: str, otherwise: ModelRunner, plan: Plan, plan_as_it_is: PlanAsItIs
    ) -> tuple[ModelRunner, Plan]:
        """The first of what was asked for that can be had; else the model itself, by ``otherwise`` and ``plan``.

        Args:
            plan_as_it_is: makes a plan of a copy of the whole model.
        """
        subject = self._subject
        wanted = passes.forward(subject.model, subject.layers, self._fresh_batch, subject.select)
        for level in LEVELS[optimize]:
            try:
                runner, forward, memory = self._split(level, wanted.output.dtype)
                difference = self._checked(runner, wanted)
                if isinstance(runner.before, Compiled) and runner.before.trouble is not None:
                    raise Unusable(runner.before.trouble)
            except Unusable as reason:
                self._notes.append(f'optimize="{level}": {reason}')
                continue
            made = Plan(f"{forward}; {difference}", plan.gradient, memory, tuple(self._notes))
            return Guarded(runner, otherwise), made
        if self._dtype is not None:
            try:
                return self._copied(self._dtype, wanted, otherwise, plan_as_it_is)
            except Unusable as reason:
                self._notes.append(f"precision {_short(self._dtype)}: {reason}")
        return otherwise, dataclasses.replace(plan, notes=tuple(self._notes))

    @property
    def _fresh_batch(self) -> Batch:
        """The batch at hand, to be changed in place by whoever does that."""
        return normal_tensors(self._given).map(torch.clone)

    def _split(self, level: str, output_type: torch.dtype) -> tuple[Split, str, int]:
        """The model's graph in parts, the first of them simplified, and packed or compiled."""
        compiled = level == "compile"
        parts, steps = self.parts(packed=not compiled)
        memory = _bytes(parts, self._subject.model)
        if compiled:  # which packs the weights of the first part for itself
            steps.append("torch.compile")
            memory += sum(tensor.nbytes for tensor in parts.before.parameters())
        pad = compiled and samples_are_independent(self._subject, self._fresh_batch)
        names, becomes = list(self._subject.layers), None if self._dtype is None else output_type
        runner = Split(parts, names, self._tail, self._convert, becomes, compiled, pad)
        return runner, f"a copy of the graph: {', '.join(steps)}", memory

    def parts(self, packed: bool) -> tuple[Parts, list[str]]:
        """The model's graph in parts, the first of them simplified and, on the CPU, ``packed``; what was done to it.

        Raises:
            Unusable: it cannot be had.
        """
        parts, folded = self._simplified_parts()
        if self._dtype is not None:
            parts.before.to(self._dtype)
        pictures = self._given.images.dim() == 4
        if pictures:
            _lay_channels_last(parts.before)
        dtype = self._dtype or self._given.images.dtype
        steps = [f"{folded} BatchNorms folded" if folded else "", "channels-last" if pictures else "", _short(dtype)]
        if packed and self._given.images.device.type == "cpu":
            steps.append(self._packed(parts))
        return parts, list(filter(None, steps))

    def _simplified_parts(self) -> tuple[Parts, int]:
        """A copy of the model's graph in parts, and how many BatchNorms were folded there."""
        if self._traced is None:
            raise Unusable("the model is not traceable")
        if any(module._forward_pre_hooks for module in self._subject.model.modules()):
            raise Unusable("hooks before its modules (of weight_norm, pruning, ...) would not run in a copy")
        try:
            parts = split(self._traced, whole=self._tail is None, dtype=self._dtype)
        except Exception as error:  # also for want of memory, which less of what was asked for may not need
            raise Unusable(f"its modules cannot be copied ({first_line(error)})") from error
        with or_unusable():
            folded = simplify(parts.before, (self._fresh_batch.tensors,))
            if parts.after is not None:
                spell_out_attention(parts.after)
        return parts, folded

    def _packed(self, parts: Parts) -> str:
        """Packs the first part's layers for oneDNN, and says what it packed."""
        with or_unusable():
            tensors = tuple(self._convert(tensor) for tensor in self._fresh_batch.tensors)
            convolutions, linears = onednn.pack(parts.before, (tensors,))
        packed = [f"{n} {what}" for n, what in ((convolutions, "convolutions"), (linears, "linear layers")) if n]
        return f"{' and '.join(packed)} packed by oneDNN" if packed else ""

    def _copied(
        self, dtype: torch.dtype, wanted: ForwardPass, otherwise: ModelRunner, plan_as_it_is: PlanAsItIs
    ) -> tuple[ModelRunner, Plan]:
        """The whole model again, in another precision."""
        subject = self._subject
        try:
            model = copied(subject.model, dtype)
        except Exception as error:
            raise Unusable(f"it cannot be copied ({first_line(error)})") from error
        layers = {name: model.get_submodule(name) for name in subject.layers}
        other = dataclasses.replace(subject, model=model, layers=layers)
        with or_unusable():
            inner, plan = plan_as_it_is(other, self._fresh_batch.map(self._cast))
        runner = Converting(inner, self._cast, wanted.output.dtype)
        difference = self._checked(runner, wanted)
        memory = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        forward = f"a copy of the model in {_short(dtype)}; {difference}"
        return Guarded(runner, otherwise), Plan(forward, plan.gradient, memory, tuple(self._notes))

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor if self._dtype is None or not tensor.is_floating_point() else tensor.to(self._dtype)

    def _convert(self, tensor: Tensor) -> Tensor:
        tensor = self._cast(tensor)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    def _checked(self, runner: Runner, wanted: ForwardPass) -> str:
        """How far a runner is from the model, on the batch at hand; one that is too far is not usable."""
        with or_unusable():
            got = runner.forward(self._fresh_batch)
        for name, expected in (("", wanted.output), *wanted.activations.items()):
            found = got.activations[name] if name else got.output
            if found.shape != expected.shape:
                raise Unusable(f"it gives {list(found.shape)} where the model gives {list(expected.shape)}")
        # Half precision moves single values far where a photo is flat, and the map as a whole little.
        exact = self._allowed() < 0.1
        worst = apart(wanted, got) if exact else apart_as_a_whole(wanted, got)
        if not worst <= self._allowed():
            raise Unusable(f"its activations are {worst:.1e} away from the model's")
        if self._tail is None:
            self._check_gradient(runner)
        return f"{worst:.1e} away from the model's activations"

    def _check_gradient(self, runner: Runner) -> None:
        """A graph does not show where a model switches grad mode off, nor gradients of the user's own."""
        subject = self._subject
        sample = self._fresh_batch.part(0, PROVED_SAMPLES)
        with or_unusable():
            scores = Scores([random_score] * len(sample))
            expected, _ = passes.forward_and_gradient(
                subject.model, subject.layers, sample.map(torch.clone), subject.select, scores.score
            )
            found = runner.gradient(sample, scores)
            worst = max(gradients_apart(expected.gradients[name], found.gradients[name]) for name in subject.layers)
        if not worst <= (1e-2 if self._allowed() < 0.1 else 0.5):
            raise Unusable(f"its gradient is {worst:.1e} away from autograd's")

    def _allowed(self) -> float:
        dtype = self._dtype or self._given.images.dtype
        return {torch.float64: 1e-6, torch.float32: 1e-4}.get(dtype, 0.2)


class Unusable(Exception):
    """Why something that was asked for is not done: one line."""


@contextlib.contextmanager
def or_unusable() -> Iterator[None]:
    """Whatever goes wrong is a reason to try less, but for want of memory, which asks for a smaller batch."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise Unusable(first_line(error)) from error


def _bytes(parts: Parts, model: nn.Module) -> int:
    """The memory of the parts that is not that of the model's own parameters and buffers."""
    seen = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    total = 0
    for part in (parts.before, parts.after):
        for tensor in () if part is None else (*part.parameters(), *part.buffers()):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
    packed = (module for module in parts.before.modules() if isinstance(module, (onednn.Packed, onednn.PackedLinear)))
    return total + sum(module.bytes for module in packed)


def _lay_channels_last(part: nn.Module) -> None:
    """As ``part.to(memory_format=torch.channels_last)``, which refuses a buffer with five dimensions."""
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
