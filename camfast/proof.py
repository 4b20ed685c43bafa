"""What is found out about a model by running it: that a closed form holds, how far a copy is off, if samples mix."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camfast import passes
from camfast.errors import first_line, is_out_of_memory
from camfast.inputs import Batch
from camfast.passes import ForwardPass, Select
from camfast.structure import modules_of
from camfast.tail import NoTail, Tail, find_tail
from camfast.targets import Classes, Scores
from camfast.trace import Trace

# Samples on which a closed form, or the gradient of a copy, is proved.
PROVED_SAMPLES = 2


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


@contextlib.contextmanager
def spared(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Runs of the model in a block, which the user did not ask for, leave buffers and random numbers as they were."""
    owners = [part for part in modules_of(model) if not isinstance(part, torch.jit.ScriptModule)]
    members = [(part, dict(part._buffers)) for part in owners]
    kept = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers() if not buffer.is_inference()]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for part, buffers in members:
                if not all(map(operator.is_, part._buffers.values(), buffers.values())):
                    part._buffers.update(buffers)  # as one was assigned anew
            for buffer, version, value in kept:
                # BatchNorm's function does not count what it writes.
                if buffer.shape == value.shape and (buffer._version != version or not _same(buffer, value)):
                    buffer.copy_(value)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or (
        one.is_floating_point()
        and torch.equal(one.nan_to_num(), other.nan_to_num())
        and one.isnan().equal(other.isnan())
    )


def samples_are_independent(subject: Subject, batch: Batch) -> bool:
    """Whether a sample's activations and output are the same beside others, so that a batch may be padded."""
    if not batch.alone:
        return False
    try:
        with spared(subject.model, batch.images.device):
            alone, beside = (
                passes.forward(subject.model, subject.layers, part.map(torch.clone), subject.select)
                for part in (batch.part(0, 1), batch.part(0, 1).padded(3).map(_disturbed))
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return is_of_tensors(alone) and apart(alone, beside.first(1)) <= 1e-3


def is_of_tensors(found: ForwardPass) -> bool:
    """Whether the output and all activations are tensors, which can be compared."""
    return all(isinstance(value, Tensor) for value in (found.output, *found.activations.values()))


def _disturbed(images: Tensor) -> Tensor:
    """Another second sample, and a third."""
    return torch.cat([images[:1], images[1:2] * 2 + 1, images[2:] * -3])


def proved_tail(subject: Subject, traced: Trace, batch: Batch) -> tuple[Tail, str]:
    """The tail, if what it gives is what autograd gives on this model, for random weights of the outputs."""
    if len(subject.layers) > 1:
        raise NoTail("several layers")
    if subject.reshaped:
        raise NoTail("a reshape_transform is given")
    ((name, layer),) = subject.layers.items()
    tail = find_tail(traced, name)
    sample = batch.part(0, PROVED_SAMPLES)

    scores = Scores([random_score] * len(sample))
    try:
        plain = passes.forward(subject.model, {name: layer}, sample.map(torch.clone), subject.select)
        seen, _ = passes.forward_and_gradient(
            subject.model, {name: layer}, sample.map(torch.clone), subject.select, scores.score
        )
    except Exception as error:  # which comes again, and to the user, unless it lies in the sample
        if is_out_of_memory(error):
            raise
        raise NoTail(f"it cannot be proved ({first_line(error)})") from error
    activations = seen.activations[name]
    if activations.dim() != 4:
        raise NoTail(f"{name!r} puts out {list(activations.shape)}")
    with torch.inference_mode(False), torch.no_grad():
        try:
            output, gradient, _ = tail.gradient(activations, scores)
        except Exception as error:
            raise NoTail(f"what follows {name!r} cannot be run by itself ({first_line(error)})") from error
        if output.shape != seen.output.shape or plain.output.shape != output.shape:
            raise NoTail(f"its form gives {list(output.shape)} where the model gives {list(seen.output.shape)}")
        distances = [
            distance(plain.output, output),
            distance(seen.output, output),
            distance(seen.gradients[name], tail.spread(gradient, activations)),
        ]
        if tail.last is not None:
            if output.dim() == 2 and output.shape[1] > 0:
                distances.append(_rows_are_classes(tail, activations, output.shape[1]))
            else:
                tail = dataclasses.replace(tail, body=tail.head, reshapes=False, last=None)
    allowed = {torch.float64: 1e-8, torch.float32: 1e-4}.get(activations.dtype, 5e-2)
    if not max(distances) <= allowed:
        raise NoTail(f"its closed form is {max(distances):.1e} away from autograd")
    return tail, f"{max(distances):.1e} away from autograd"


def _rows_are_classes(tail: Tail, activations: Tensor, classes: int) -> float:
    """How far the gradients of the first and the last class, by the rows of the last layer, are from autograd's."""
    targets = Classes(torch.tensor([[0, classes - 1]]).expand(len(activations), 2))
    whole = dataclasses.replace(tail, body=tail.head, last=None)
    _, expected, _ = whole.gradient(activations, targets)
    _, found, _ = tail.gradient(activations, targets)
    return distance(expected, found)


def watched_modules(subject: Subject, traced: Trace) -> tuple[nn.Module, ...]:
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


def random_score(output: Tensor) -> Tensor:
    """A sum of all of an output with random weights, the same for the same shape."""
    return (output * _random_like(output)).sum()


def _random_like(output: Tensor) -> Tensor:
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)


def apart(expected: ForwardPass, found: ForwardPass) -> float:
    """The largest distance of activations and output."""
    layers = (distance(tensor, found.activations[name]) for name, tensor in expected.activations.items())
    return max(distance(expected.output, found.output), *layers)


def apart_as_a_whole(expected: ForwardPass, found: ForwardPass) -> float:
    """The same by the norm of the difference over that of what is expected: single values may be far off."""
    pairs = [(expected.output, found.output)]
    pairs += [(tensor, found.activations[name]) for name, tensor in expected.activations.items()]
    ratios = []
    for one, other in pairs:
        norm, difference = float(one.double().norm()), float((one.double() - other.double()).norm())
        ratios.append(difference / norm if norm > 0 else difference)  # the head of a model may begin with zeros
    return math.inf if any(map(math.isnan, ratios)) else max(ratios)


def gradients_apart(expected: Tensor, found: Tensor) -> float:
    """The norm of the difference over that of what is expected, but for the thousandth of the values that differ most.

    A value that rounding takes over the edge of a ReLU changes single gradients by all that they are.
    """
    expected, found = expected.double().flatten(), found.double().flatten()
    difference = (expected - found).abs()
    if not bool(difference.isfinite().all()):
        return math.inf
    kept = difference.sort().values[: len(difference) - len(difference) // 1000].norm()
    norm = expected.norm()
    return float(kept / norm) if norm > 0 else float(kept)


def distance(expected: Tensor, found: Tensor) -> float:
    """The largest difference, over the largest finite value; infinite where nothing, or too little, is finite."""
    expected, found = expected.double(), found.double()
    finite = expected.isfinite()
    if not bool(finite.any()):
        return math.inf
    scale = float(expected[finite].abs().max())
    difference = float((expected - found)[finite].abs().max())
    if math.isnan(difference):
        return math.inf
    return difference / scale if scale > 0 else difference
