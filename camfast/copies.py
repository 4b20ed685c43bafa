"""Copies of a model that run in its place: what was asked for is tried, then less of it, until something is right."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from camfast import passes
from camfast.errors import first_line, is_out_of_memory
from camfast.inputs import Batch, normal_tensors
from camfast.optimize import int8, integers, onednn
from camfast.optimize.attention import spell_out_attention
from camfast.optimize.compiled import Compiled
from camfast.optimize.converted import convert
from camfast.optimize.leaves import leaves_like, not_flat, reach
from camfast.optimize.simplify import simplify
from camfast.optimize.split import Parts, copied, split
from camfast.passes import ForwardPass
from camfast.plan import Plan
from camfast.proof import (
    PROVED_SAMPLES,
    Subject,
    apart,
    apart_as_a_whole,
    distance,
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

HALF_PRECISION, INT8 = 0.2, 0.3
"""How far a copy may be from the model, as a whole."""
EXACT = {torch.float64: 1e-6, torch.float32: 1e-4}
"""How far at most, of a copy in the precision of the model."""

BEYOND = 1.5
"""How much further than those that they were scaled by images may reach, before integers are scaled anew."""

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
        self._has = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        self._in_integers = precision == torch.int8
        self._dtype = None if self._in_integers or self._has <= {precision} else precision
        """None for the precision that the model has."""
        self._notes: list[str] = []

    def best(
        self, optimize: str, otherwise: ModelRunner, plan: Plan, plan_as_it_is: PlanAsItIs
    ) -> tuple[ModelRunner, Plan]:
        """The first of what was asked for that can be had; else the model itself, by ``otherwise`` and ``plan``.

        Args:
            plan_as_it_is: makes a plan of a copy of the whole model.
        """
        if self._in_integers:
            try:
                return self._in_int8(optimize == "compile", otherwise, plan)
            except Unusable as reason:
                self._notes.append(f'precision="int8": {reason}')
        for level in LEVELS[optimize]:
            try:
                return self._split(level, otherwise, plan)
            except Unusable as reason:
                self._notes.append(f'optimize="{level}": {reason}')
        if self._dtype is not None:
            try:
                return self._copied(self._dtype, otherwise, plan_as_it_is)
            except Unusable as reason:
                self._notes.append(f"precision {_short(self._dtype)}: {reason}")
        return otherwise, dataclasses.replace(plan, notes=tuple(self._notes))

    @functools.cached_property
    def _expected(self) -> ForwardPass:
        """What the model makes of the batch at hand."""
        return self._wanted(self._given)

    def _wanted(self, batch: Batch) -> ForwardPass:
        """What the model makes of a batch."""
        fresh = normal_tensors(batch).map(torch.clone)
        return passes.forward(self._subject.model, self._subject.layers, fresh, self._subject.select)

    @property
    def _fresh_batch(self) -> Batch:
        """The batch at hand, to be changed in place by whoever does that."""
        return normal_tensors(self._given).map(torch.clone)

    def _split(self, level: str, otherwise: ModelRunner, plan: Plan) -> tuple[ModelRunner, Plan]:
        """The model's graph in parts, the first of them simplified, and packed or compiled."""
        compiled = level == "compile"
        parts, steps = self.parts(packed=not compiled)
        memory = _bytes(parts, self._subject.model)
        if compiled:  # which packs the weights of the first part for itself
            steps.append("torch.compile")
            memory += sum(tensor.nbytes for tensor in parts.before.parameters())
        runner = self._runner(parts, before_is_compiled=compiled, after_is_compiled=compiled)
        difference = self._checked(runner, self._fresh_batch, self._expected, self._allowed())
        if isinstance(runner.before, Compiled) and runner.before.trouble is not None:
            raise Unusable(runner.before.trouble)
        return Guarded(runner, otherwise), self._plan(steps, difference, plan, memory)

    def _in_int8(self, compiled: bool, otherwise: ModelRunner, plan: Plan) -> tuple[ModelRunner, Plan]:
        """The model's graph in parts, the first of them in integers, the second perhaps compiled."""
        self._check_int8()
        fast = torch.bfloat16 if onednn.available(torch.bfloat16) else torch.float32
        # What linear layers of transformers get can have a few values that are much larger than all others.
        *first, last = dict.fromkeys([(fast, True), (fast, False), (torch.float32, False)])
        for values, linear in first:
            with contextlib.suppress(Unusable):
                return self._in_int8_beside(values, linear, compiled, otherwise, plan)
        return self._in_int8_beside(*last, compiled, otherwise, plan)

    def _in_int8_beside(
        self, values: torch.dtype, linear: bool, compiled: bool, otherwise: ModelRunner, plan: Plan
    ) -> tuple[ModelRunner, Plan]:
        """With a type of what is no integer, and perhaps with linear layers in integers."""
        parts, folded = self._simplified_parts()
        _lay_channels_last(parts.before)
        shown = self._shown()
        with or_unusable():
            inputs = self._converted(self._fresh_batch.tensors)
            showing = [self._converted(batch.tensors) for batch in shown]
            counts = int8.quantize(parts.before, inputs, showing, values, linear=linear)
            # Of later layers it gives what it computes with, not another type of that, which has no gradient.
            if parts.after is not None and not parts.later and values != torch.float32:
                convert(parts.after, values)
        if not any(counts):
            raise Unusable("there are no convolutions or linear layers up to the layer")
        steps = [f"{folded} BatchNorms folded" if folded else "", "channels-last"]
        steps += [f"{_layers(*counts)} in 8-bit integers by oneDNN, all else in {_short(values)}"]
        steps += [self._packed(parts)]
        runner = self._runner(parts, before_is_compiled=False, after_is_compiled=compiled)
        with or_unusable():  # as the model may take no other number of samples than those at hand
            shown_wanted = self._wanted(shown[0])
        difference = self._checked(runner, shown[0], shown_wanted, INT8)
        memory = _bytes(parts, self._subject.model)
        made = self._plan(steps, difference, plan, memory)
        return Guarded(runner, otherwise), dataclasses.replace(made, reach=BEYOND * reach(self._given.images))

    def _check_int8(self) -> None:
        images = self._given.images
        if images.device.type != "cpu":
            raise Unusable(f"it is for the CPU; x is on {images.device}")
        if images.dim() != 4:
            raise Unusable("it is for images, not for volumes")
        if not self._has <= {torch.float32}:
            other = next(iter(self._has - {torch.float32}))
            raise Unusable(f"it takes the place of float32; the model is in {_short(other)}")
        if not integers.available():
            raise Unusable("this processor, or this PyTorch, does not multiply 8-bit integers (AVX-512 VNNI)")

    def _shown(self) -> list[Batch]:
        """What shows how large values become: the batch at hand, where it does, and images that are always the same."""
        batch = self._fresh_batch
        if not batch.alone:
            return [batch]
        telling = batch.taken(not_flat(batch.images))
        leaves = [batch.filled((images,)) for images in leaves_like(batch.images)]
        return [telling, *leaves] if len(telling) else leaves

    def _runner(self, parts: Parts, *, before_is_compiled: bool, after_is_compiled: bool) -> Split:
        names, becomes = list(self._subject.layers), None if self._dtype is None else self._expected.output.dtype
        compiled = before_is_compiled or (after_is_compiled and parts.after is not None)
        return Split(
            parts,
            names,
            self._tail,
            self._convert,
            becomes,
            before_is_compiled=before_is_compiled,
            after_is_compiled=after_is_compiled,
            pad=compiled and samples_are_independent(self._subject, self._fresh_batch),
        )

    def _plan(self, steps: list[str], difference: str, plan: Plan, memory: int) -> Plan:
        forward = f"a copy of the graph: {', '.join(filter(None, steps))}; {difference}"
        return Plan(forward, plan.gradient, memory, tuple(self._notes))

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
        self._check_graph(parts)
        return parts, folded

    def _check_graph(self, parts: Parts) -> None:
        """Before anything is rounded: what a graph does not show could hide in that (a map that has a second name when
        ``+=`` changes it)."""
        rounds = self._in_integers or self._dtype is not None
        if not rounds or not self._has <= {torch.float32, torch.float64}:
            return
        with or_unusable(), torch.inference_mode(False), torch.no_grad():
            found = dict(zip(parts.first, parts.before(self._fresh_batch.tensors), strict=False))
        worst = max(distance(self._expected.activations[name], found[name]) for name in parts.first)
        if not worst <= EXACT[self._expected.activations[parts.first[0]].dtype]:
            raise Unusable(f"the activations of its graph are {worst:.1e} away from the model's")

    def _packed(self, parts: Parts) -> str:
        """Packs the first part's layers for oneDNN, and says what it packed."""
        with or_unusable():
            convolutions, linears = onednn.pack(parts.before, self._converted(self._fresh_batch.tensors))
        return f"{_layers(convolutions, linears)} packed by oneDNN" if convolutions or linears else ""

    def _copied(
        self, dtype: torch.dtype, otherwise: ModelRunner, plan_as_it_is: PlanAsItIs
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
        runner = Converting(inner, self._cast, self._expected.output.dtype)
        difference = self._checked(runner, self._fresh_batch, self._expected, self._allowed())
        memory = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        forward = f"a copy of the model in {_short(dtype)}; {difference}"
        return Guarded(runner, otherwise), Plan(forward, plan.gradient, memory, tuple(self._notes))

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor if self._dtype is None or not tensor.is_floating_point() else tensor.to(self._dtype)

    def _converted(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...]]:
        """As the first part takes them."""
        return (tuple(map(self._convert, tensors)),)

    def _convert(self, tensor: Tensor) -> Tensor:
        tensor = self._cast(tensor)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    def _checked(self, runner: Runner, batch: Batch, wanted: ForwardPass, allowed: float) -> str:
        """How far a runner is from the model on a batch; one that is too far is not usable."""
        with or_unusable():
            got = runner.forward(batch.map(torch.clone))
        for name, expected in (("", wanted.output), *wanted.activations.items()):
            found = got.activations[name] if name else got.output
            if found.shape != expected.shape:
                raise Unusable(f"it gives {list(found.shape)} where the model gives {list(expected.shape)}")
        # Rounding moves single values far where a photo is flat, and the map as a whole little.
        worst = apart(wanted, got) if allowed < HALF_PRECISION else apart_as_a_whole(wanted, got)
        if not worst <= allowed:
            raise Unusable(f"its activations are {worst:.1e} away from the model's")
        if self._tail is None:
            self._check_gradient(runner, batch, allowed)
        return f"{worst:.1e} away from the model's activations"

    def _check_gradient(self, runner: Runner, batch: Batch, allowed: float) -> None:
        """A graph does not show where a model switches grad mode off, nor gradients of the user's own."""
        subject = self._subject
        sample = batch.part(0, PROVED_SAMPLES)
        with or_unusable():
            scores = Scores([random_score] * len(sample))
            expected, _ = passes.forward_and_gradient(
                subject.model, subject.layers, sample.map(torch.clone), subject.select, scores.score
            )
            found = runner.gradient(sample, scores)
            worst = max(gradients_apart(expected.gradients[name], found.gradients[name]) for name in subject.layers)
        if not worst <= (1e-2 if allowed < HALF_PRECISION else 0.5):
            raise Unusable(f"its gradient is {worst:.1e} away from autograd's")

    def _allowed(self) -> float:
        dtype = self._dtype or self._given.images.dtype
        return EXACT.get(dtype, HALF_PRECISION)


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
    kinds = (onednn.Packed, onednn.PackedLinear, integers.IntegerConvolution, integers.IntegerLinear)
    return total + sum(module.bytes for module in parts.before.modules() if isinstance(module, kinds))


def _lay_channels_last(part: nn.Module) -> None:
    """As ``part.to(memory_format=torch.channels_last)``, which refuses a buffer with five dimensions."""
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def _layers(convolutions: int, linears: int) -> str:
    counts = ((convolutions, "convolution"), (linears, "linear layer"))
    return " and ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts if n)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
