"""What every module of a model puts out in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camfast.hooks import forward_hooks
from camfast.inputs import Batch, normal_tensors
from camfast.passes import prepared
from camfast.proof import spared
from camfast.tokens import Reading, Shape, Unreadable, read


@dataclass(frozen=True)
class LayerRun:
    """One run of one module in a forward pass."""

    name: str
    module: nn.Module
    shape: Shape
    """The shape of its output; empty where that is no tensor."""
    reading: Reading | None
    """How the output is a map; None where it is none."""
    trouble: str
    """Why it is none."""
    samples: int
    size: Shape
    """How many images there were, and their (H, W)."""
    output_type: type = Tensor

    @property
    def spatial(self) -> bool:
        """Whether the output is a map, or tokens of one, with more than one position, as far as can be told."""
        return self.reading is not None and self.reading.positions > 1

    @property
    def maps(self) -> bool:
        """Whether it is one without being a sequence of tokens."""
        return self.spatial and self.reading is not None and self.reading.prefix is None

    @property
    def tokens(self) -> bool:
        """Whether the output has the shape of a sequence of tokens, be they those of a map or not."""
        return len(self.shape) == 3 and (self.shape[1] > 1 or self.shape[0] != self.samples)


def trace_sample(model: nn.Module, batch: Batch) -> list[LayerRun]:
    """As :func:`trace_layers`, in evaluation mode, with one sample of a batch where the model takes that."""
    with prepared(model), spared(model, batch.images.device):
        # A copy: a model that changes its input in place would otherwise do so twice.
        try:
            return trace_layers(model, normal_tensors(batch.part(0, 1).map(torch.clone)))
        except Exception:  # also of a model that takes no batch but one of its own size
            return trace_layers(model, normal_tensors(batch.map(torch.clone)))


def trace_layers(model: nn.Module, batch: Batch) -> list[LayerRun]:
    """Every module that runs, in the order in which they finish, from one forward pass without grad."""
    named = dict(model.named_modules())
    names, modules = list(named), list(named.values())
    samples, size = len(batch), tuple(batch.images.shape[2:])
    runs: list[LayerRun] = []
    seen: set[Shape] = set()

    def make_hook(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else ()
            run = _run(names[index], module, shape, type(output), samples, size, seen)
            runs.append(run)
            if run.maps and run.reading is not None:
                seen.add(run.reading.grid)

        return hook

    with torch.no_grad(), forward_hooks(modules, make_hook):
        batch.call(model)
    return runs


def _run(
    name: str, module: nn.Module, shape: Shape, output_type: type, samples: int, size: Shape, seen: set[Shape]
) -> LayerRun:
    if not issubclass(output_type, Tensor):
        return LayerRun(name, module, (), None, f"puts out a {output_type.__name__}", samples, size, output_type)
    try:
        return LayerRun(name, module, shape, read(module, shape, samples, size, seen), "", samples, size)
    except Unreadable as reason:
        return LayerRun(name, module, shape, None, str(reason), samples, size)
