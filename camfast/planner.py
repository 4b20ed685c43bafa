"""Decides how a model is explained: what can be proved or copied is used, and what cannot is left, with a reason."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camfast import passes
from camfast.errors import is_out_of_memory
from camfast.inputs import Batch, normal_tensors
from camfast.optimize import onednn
from camfast.optimize.compiled import Compiled
from camfast.optimize.simplify import simplify
from camfast.optimize.split import Parts, split
from camfast.passes import ForwardPass, Select
from camfast.plan import Plan
from camfast.runners import Converting, Guarded, Hooked, Runner, Split
from camfast.tail import NoTail, Tail, find_tail
from camfast.targets import Scores
from camfast.trace import NotTraceable, Trace, trace

OPTIMIZE = ("none", "inference", "compile")
PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_AS_IT_IS = "the model itself, without a graph"
# Samples on which a closed form is proved.
PROVED_SAMPLES = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user asked for."""

    optimize: str = "none"
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.optimize not in OPTIMIZE:
            raise ValueError(f"optimize={self.optimize!r}; expected one of {', '.join(map(repr, OPTIMIZE))}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(
                f"precision={self.precision!r}; expected one of {', '.join(map(repr, PRECISIONS))}, or None for the "
                "model's own"
            )

    @property
    def copies(self) -> bool:
        """Whether the engine runs something other than the model itself."""
        return self.optimize != "none" or self.precision is not None


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is to be explained."""

    model: nn.Module
    layers: Mapping[str, nn.Module]
    select: Select
    """Takes the output tensor from what the model returns."""
    pick: Callable[[Any], Any]
    """The same without a check, for a graph of the model."""
    reshaped: bool
    """Whether a reshape_transform stands between the layers and their maps."""


def make_plan(subject: Subject, batch: Batch, options: Options) -> tuple[Runner, Plan]:
    """A runner for a model, checked on a batch, and what was decided.

    Raises:
        Exception: whatever the model raises, and what :func:`camfast.passes.forward_and_gradient` does.
    """
    passes.check_parameters(subject.model)
    traced: Trace | None = None
    tail: Tail | None = None
    with _spared(subject.model, batch.images.device):
        try:
            traced = trace(subject.model, subject.layers, batch, subject.pick)
            tail, proof = _proved_tail(subject, traced, batch)
            gradient = f"closed form at {next(iter(subject.layers))}: {tail.steps}; {proof}"
        except (NotTraceable, NoTail) as reason:
            kind = "not traceable: " if isinstance(reason, NotTraceable) else ""
            gradient = f"autograd, from {', '.join(subject.layers)} on ({kind}{reason})"
        watched = () if traced is None or tail is None else _watched(subject, traced)
        as_it_is = Hooked(subject.model, subject.layers, subject.select, tail, watched)
        if not options.copies:
            return as_it_is, Plan(_AS_IT_IS, gradient)
        return _Copying(subject, batch, options, traced, tail, gradient).result(as_it_is)


@contextlib.contextmanager
def _spared(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Runs of the model in a block, which the user did not ask for, leave buffers and random numbers as they were."""
    kept = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers() if not buffer.is_inference()]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, version, value in kept:
                if buffer._version != version and buffer.shape == value.shape:
                    buffer.copy_(value)


def samples_are_independent(subject: Subject, batch: Batch) -> bool:
    """Whether a sample's activations and output are the same beside others, so that a batch may be padded."""
    if not batch.alone:
        return False
    try:
        with _spared(subject.model, batch.images.device):
            alone, beside = (
                passes.forward(subject.model, subject.layers, part.map(torch.clone), subject.select)
                for part in (batch.part(0, 1), batch.part(0, 1).padded(3).map(_disturbed))
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return _apart(alone, beside.first(1)) <= 1e-3


def _disturbed(images: Tensor) -> Tensor:
    """Another second sample, and a third."""
    return torch.cat([images[:1], images[1:2] * 2 + 1, images[2:] * -3])


class _Copying:
    """Tries what was asked for, then less of it, until something gives what the model gives."""

    def __init__(
        self,
        subject: Subject,
        batch: Batch,
        options: Options,
        traced: Trace | None,
        tail: Tail | None,
        gradient: str,
    ) -> None:
        self._subject = subject
        self._given = batch
        self._options = options
        self._traced = traced
        self._tail = tail
        self._gradient = gradient
        self._dtype = None if options.precision is None else PRECISIONS[options.precision]
        self._notes: list[str] = []

    @property
    def _fresh_batch(self) -> Batch:
        """The batch at hand, to be changed in place by whoever does that."""
        return normal_tensors(self._given).map(torch.clone)

    def result(self, otherwise: Runner) -> tuple[Runner, Plan]:
        subject = self._subject
        wanted = passes.forward(subject.model, subject.layers, self._fresh_batch, subject.select)
        floating = {t.dtype for t in (*subject.model.parameters(), *subject.model.buffers()) if t.is_floating_point()}
        if self._dtype is not None and floating <= {self._dtype}:
            self._dtype = None  # which the model has already
        levels = {"none": [], "inference": ["inference"], "compile": ["compile", "inference"]}[self._options.optimize]
        for level in levels:
            try:
                runner, forward, memory = self._split(level, wanted.output.dtype)
                difference = self._checked(runner, wanted)
                if isinstance(runner.before, Compiled) and runner.before.trouble is not None:
                    raise _Unusable(runner.before.trouble)
            except _Unusable as reason:
                self._notes.append(f'optimize="{level}": {reason}')
                continue
            plan = Plan(f"{forward}; {difference}", self._gradient, memory, tuple(self._notes))
            return Guarded(runner, otherwise), plan
        if self._dtype is not None:
            try:
                return self._copied(self._dtype, wanted, otherwise)
            except _Unusable as reason:
                self._notes.append(f'precision="{self._options.precision}": {reason}')
        return otherwise, Plan(_AS_IT_IS, self._gradient, 0, tuple(self._notes))

    def _split(self, level: str, output_type: torch.dtype) -> tuple[Split, str, int]:
        """The model's graph in parts, the first of them simplified, and packed or compiled."""
        if self._traced is None:
            raise _Unusable("the model is not traceable")
        if any(module._forward_pre_hooks for module in self._subject.model.modules()):
            raise _Unusable("hooks before its modules (of weight_norm, pruning, ...) would not run in a copy")
        own_type = self._dtype is None
        try:
            parts = split(self._traced, whole=self._tail is None, share=own_type)
        except Exception as error:
            raise _Unusable(f"its modules cannot be copied ({_first_line(error)})") from error
        try:
            folded = simplify(parts.before, (self._fresh_batch.tensors,))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _Unusable(_first_line(error)) from error
        for part in (parts.before, parts.after):
            if part is not None and self._dtype is not None:
                part.to(self._dtype)
        parts.before.to(memory_format=torch.channels_last)
        dtype = self._dtype or self._given.images.dtype
        steps = [f"{folded} BatchNorms folded" if folded else "", "channels-last", _short(dtype)]
        if level == "inference" and self._given.images.device.type == "cpu":
            tensors = tuple(self._convert(tensor) for tensor in self._fresh_batch.tensors)
            try:
                packed = onednn.pack_convolutions(parts.before, (tensors,))
            except Exception as error:
                raise _Unusable(_first_line(error)) from error
            steps.append(f"{packed} convolutions packed by oneDNN" if packed else "")
        elif level == "compile":
            steps.append("torch.compile")
        memory = _bytes(parts, self._subject.model)
        if level == "compile":  # which packs the weights of the first part for itself
            memory += sum(tensor.nbytes for tensor in parts.before.parameters())
        compiled = level == "compile"
        pad = compiled and samples_are_independent(self._subject, self._fresh_batch)
        names = list(self._subject.layers)
        runner = Split(parts, names, self._tail, self._convert, None if own_type else output_type, compiled, pad)
        return runner, f"a copy of the graph: {', '.join(filter(None, steps))}", memory

    def _copied(self, dtype: torch.dtype, wanted: ForwardPass, otherwise: Runner) -> tuple[Runner, Plan]:
        """The whole model again, in another precision."""
        subject = self._subject
        try:
            model = copy.deepcopy(subject.model).to(dtype)
        except Exception as error:
            raise _Unusable(f"it cannot be copied ({_first_line(error)})") from error
        layers = {name: model.get_submodule(name) for name in subject.layers}
        copied = dataclasses.replace(subject, model=model, layers=layers)
        try:
            runner, plan = make_plan(copied, self._fresh_batch.map(self._cast), Options())
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _Unusable(_first_line(error)) from error
        runner = Converting(runner, self._cast, wanted.output.dtype)
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
        try:
            got = runner.forward(self._fresh_batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _Unusable(_first_line(error)) from error
        for name, expected in (("", wanted.output), *wanted.activations.items()):
            found = got.activations[name] if name else got.output
            if found.shape != expected.shape:
                raise _Unusable(f"it gives {list(found.shape)} where the model gives {list(expected.shape)}")
        worst = _apart(wanted, got)
        if not worst <= self._allowed():
            raise _Unusable(f"its activations are {worst:.1e} away from the model's")
        if self._tail is None:
            self._check_gradient(runner)
        return f"{worst:.1e} away from the model's activations"

    def _check_gradient(self, runner: Runner) -> None:
        """A graph does not show where a model switches grad mode off, nor gradients of the user's own."""
        subject = self._subject
        sample = self._fresh_batch.part(0, PROVED_SAMPLES)
        try:
            scores = Scores([_random_score] * len(sample))
            expected, _ = passes.forward_and_gradient(
                subject.model, subject.layers, sample.map(torch.clone), subject.select, scores.score
            )
            found = runner.gradient(sample, scores)
            # As a whole: a value that rounding takes over the edge of a ReLU changes single gradients much.
            worst = max(
                float((expected.gradients[name] - found.gradients[name]).norm() / expected.gradients[name].norm())
                for name in subject.layers
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _Unusable(_first_line(error)) from error
        if not worst <= (1e-2 if self._allowed() < 0.1 else 0.5):
            raise _Unusable(f"its gradient is {worst:.1e} away from autograd's")

    def _allowed(self) -> float:
        dtype = self._dtype or self._given.images.dtype
        return {torch.float64: 1e-6, torch.float32: 1e-4}.get(dtype, 0.2)


class _Unusable(Exception):
    """Why something that was asked for is not done: one line."""


def _proved_tail(subject: Subject, traced: Trace, batch: Batch) -> tuple[Tail, str]:
    """The tail, if what it gives is what autograd gives on this model, for random weights of the outputs."""
    if len(subject.layers) > 1:
        raise NoTail("several layers")
    if subject.reshaped:
        raise NoTail("a reshape_transform is given")
    ((name, layer),) = subject.layers.items()
    tail = find_tail(traced, name)
    sample = batch.part(0, PROVED_SAMPLES)

    def score(output: Tensor) -> tuple[Tensor, None]:
        return _random_score(output)[None], None

    try:
        plain = passes.forward(subject.model, {name: layer}, sample.map(torch.clone), subject.select)
        seen, _ = passes.forward_and_gradient(
            subject.model, {name: layer}, sample.map(torch.clone), subject.select, score
        )
    except Exception as error:  # which comes again, and to the user, unless it lies in the sample
        if is_out_of_memory(error):
            raise
        raise NoTail(f"it cannot be proved ({_first_line(error)})") from error
    activations = seen.activations[name]
    if activations.dim() != 4:
        raise NoTail(f"{name!r} puts out {list(activations.shape)}")
    with torch.inference_mode(False), torch.no_grad():
        try:
            output = tail.output(activations)
            gradient = tail.backward(tail.pooled(activations), score)
        except Exception as error:
            raise NoTail(f"what follows {name!r} cannot be run by itself ({_first_line(error)})") from error
        if output.shape != seen.output.shape or plain.output.shape != output.shape:
            raise NoTail(f"its form gives {list(output.shape)} where the model gives {list(seen.output.shape)}")
        distances = [
            _distance(plain.output, output),
            _distance(seen.output, output),
            _distance(seen.gradients[name], tail.spread(gradient, activations)),
        ]
        if tail.linear is not None:
            rows_are_classes = output.dim() == 2 and tail.linear.weight.shape == (output.shape[1], activations.shape[1])
            if rows_are_classes:
                distances.append(_distance(gradient, _random_like(output) @ tail.linear.weight))
            else:
                tail = dataclasses.replace(tail, linear=None)
    allowed = {torch.float64: 1e-8, torch.float32: 1e-4}.get(activations.dtype, 5e-2)
    if not max(distances) <= allowed:
        raise NoTail(f"its closed form is {max(distances):.1e} away from autograd")
    return tail, f"{max(distances):.1e} away from autograd"


def _watched(subject: Subject, traced: Trace) -> tuple[nn.Module, ...]:
    """The model's modules after the layer, and all that contain them or the layer: hooks there change the gradient."""
    (layer,) = traced.layers.values()
    after = {layer}
    names = set()
    for node in traced.graph.nodes:
        if node.op != "output" and any(source in after for source in node.all_input_nodes):
            after.add(node)
            if node.op == "call_module":
                names.add(str(node.target).partition(".")[2])  # without the name of the call around the model
    (own,) = subject.layers
    for name in [*names, own]:
        while name:
            name = name.rpartition(".")[0]
            names.add(name)
    return tuple(subject.model.get_submodule(name) for name in sorted(names - {own}))


def _random_score(output: Tensor) -> Tensor:
    """A sum of all of an output with random weights, the same for the same shape."""
    return (output * _random_like(output)).sum()


def _random_like(output: Tensor) -> Tensor:
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)


def _apart(expected: ForwardPass, found: ForwardPass) -> float:
    """The largest distance of activations and output."""
    layers = (_distance(tensor, found.activations[name]) for name, tensor in expected.activations.items())
    return max(_distance(expected.output, found.output), *layers)


def _distance(expected: Tensor, found: Tensor) -> float:
    """The largest difference, over the largest finite value; infinite where nothing is finite."""
    expected, found = expected.double(), found.double()
    finite = expected.isfinite()
    if not bool(finite.any()):
        return math.inf
    scale = float(expected[finite].abs().max())
    difference = float((expected - found)[finite].abs().max())
    return difference / scale if scale > 0 else difference


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
    packed = (module for module in parts.before.modules() if isinstance(module, onednn.Packed))
    return total + sum(module.bytes for module in packed)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
