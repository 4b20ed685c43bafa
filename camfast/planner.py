"""Decides how a model is explained: what can be proved or copied is used, and what cannot is left, with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from camfast import passes
from camfast.copies import LEVELS, Copies
from camfast.inputs import Batch
from camfast.plan import Plan
from camfast.proof import Subject, is_of_tensors, proved_tail, spared, watched_modules
from camfast.runners import Hooked, ModelRunner
from camfast.tail import NoTail, Tail
from camfast.trace import NotTraceable, Trace, trace

OPTIMIZE = tuple(LEVELS)
PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}


@dataclass(frozen=True)
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


def make_plan(subject: Subject, batch: Batch, options: Options, *, gradients: bool = True) -> tuple[ModelRunner, Plan]:
    """A runner for a model, checked on a batch, and what was decided.

    Args:
        gradients: whether any will be asked for; of the model itself, nothing about them is proved otherwise.

    Raises:
        Exception: whatever the model raises, and what :func:`camfast.passes.forward_and_gradient` does.
    """
    passes.check_parameters(subject.model)
    with spared(subject.model, batch.images.device):
        traced, tail, runner, plan = _plan_as_it_is(subject, batch, gradients or options.copies)
        if not options.copies:
            return runner, plan
        if (traced is None or traced.opaque) and not _is_of_tensors(subject, batch):
            note = "no copy: the model, or a layer, puts out something else than one tensor"
            return runner, replace(plan, notes=(*plan.notes, note))
        precision = None if options.precision is None else PRECISIONS[options.precision]
        copies = Copies(subject, batch, traced, tail, precision)
        return copies.best(options.optimize, runner, plan, lambda other, x: _plan_as_it_is(other, x)[2:])


def _is_of_tensors(subject: Subject, batch: Batch) -> bool:
    sample = batch.map(torch.clone)
    return is_of_tensors(passes.forward(subject.model, subject.layers, sample, subject.select))


def _plan_as_it_is(
    subject: Subject, batch: Batch, gradients: bool = True
) -> tuple[Trace | None, Tail | None, ModelRunner, Plan]:
    """The model itself, by a closed form where one is proved; and what was found on the way."""
    traced: Trace | None = None
    tail: Tail | None = None
    try:
        traced = trace(subject.model, subject.layers, batch, subject.pick)
        gradient = "not needed"
        if gradients:
            tail, proof = proved_tail(subject, traced, batch)
            gradient = f"closed form at {next(iter(subject.layers))}: {tail.steps}; {proof}"
    except (NotTraceable, NoTail) as reason:
        kind = "not traceable: " if isinstance(reason, NotTraceable) else ""
        gradient = f"autograd, from {', '.join(subject.layers)} on ({kind}{reason})" if gradients else "not needed"
    watched = () if traced is None or tail is None else watched_modules(subject, traced)
    runner = Hooked(subject.model, subject.layers, subject.select, tail, watched, traced)
    return traced, tail, runner, Plan("the model itself, without a graph", gradient)
