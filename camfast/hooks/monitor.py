"""Norms of gradients over the steps of a training run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from camfast.files import whole_file
from camfast.hooks.callbacks import on_backward
from camfast.hooks.selection import select_layers
from camfast.hooks.tables import html_table, text_table
from camfast.layers import Layers
from camfast.wrappers import plain_module

_HEADER = ("layer", "", "last", "smallest", "largest")
_LEFT = 2


class GradientMonitor:
    """Records the norm of the gradient with respect to what each layer puts out, step by step.

    >>> with camfast.GradientMonitor(model) as monitor:  # doctest: +SKIP
    ...     for x, y in batches:
    ...         optimizer.zero_grad()
    ...         loss(model(x), y).backward()
    ...         optimizer.step()
    ...         monitor.step()
    >>> print(monitor)  # doctest: +SKIP
    gradient norms of 2 layers over 100 steps; vanishing below 1e-07, exploding above 1000
    layer                            last   smallest  largest
    conv1  vanishing in 3 steps  2.1e-06    4.4e-09     0.0013
    fc                             0.0312     0.0156     0.0871

    All gradients of a layer between two steps make one norm: several runs, several backward passes. Under a
    ``GradScaler`` it is that of the scaled loss. The block may be left and opened again; what was recorded stays.
    Compiled models run uncompiled in it.

    Args:
        model: any module.
        layers: as for :func:`camfast.capture`; None takes every module that has parameters of its own.
        vanishing, exploding: norms below the one and above the other, or not finite, are flagged.

    Raises:
        ValueError, TypeError: wrong layers, thresholds that are not ``0 <= vanishing < exploding``, a model without
            parameters.
    """

    def __init__(
        self, model: nn.Module, layers: Layers | None = None, *, vanishing: float = 1e-7, exploding: float = 1e3
    ) -> None:
        if not 0 <= vanishing < exploding:
            raise ValueError(f"vanishing={vanishing}, exploding={exploding}; expected 0 <= vanishing < exploding")
        if layers is None:
            named = plain_module(model).named_modules()
            layers = [name for name, module in named if any(True for _ in module.parameters(recurse=False))]
            if not layers:
                raise ValueError("the model has no parameters of its own; give layers")
        self.model = model
        self.layers = tuple(select_layers(model, layers))
        self.thresholds = (vanishing, exploding)
        self._norms: dict[str, list[float | None]] = {name: [] for name in self.layers}
        self._now: dict[str, Tensor] = {}
        self._block: AbstractContextManager[None] | None = None

    def __enter__(self) -> GradientMonitor:
        if self._block is not None:
            raise RuntimeError("this GradientMonitor is on already; leave its block first, or make another one")
        block = on_backward(self.model, list(self.layers), self._record)
        block.__enter__()
        self._block = block
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._block is not None
        block, self._block = self._block, None
        self._now.clear()
        block.__exit__(kind, error, trace)

    def _record(self, name: str, module: nn.Module, gradient: Tensor) -> None:
        gradient = gradient.detach()
        norm = torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
        self._now[name] = torch.hypot(self._now[name], norm) if name in self._now else norm

    def step(self) -> dict[str, float | None]:
        """Ends a step, after its backward pass, and returns the norms of it by layer name; None is a layer that no
        gradient came to. A CUDA device is waited for."""
        arrived = list(self._now)
        # One copy to the host for all.
        norms = torch.stack([self._now[name].to(self._now[arrived[0]]) for name in arrived]).tolist() if arrived else []
        self._now.clear()
        found: dict[str, float | None] = dict.fromkeys(self.layers)
        found.update(zip(arrived, norms, strict=True))
        for name, norm in found.items():
            self._norms[name].append(norm)
        return found

    @property
    def steps(self) -> int:
        """How many there were."""
        return len(next(iter(self._norms.values())))

    @property
    def vanishing(self) -> dict[str, list[int]]:
        """The steps, from 0 on, in which the norm at a layer was below the threshold; layers without any are not
        there."""
        return self._flagged(lambda norm: norm < self.thresholds[0])

    @property
    def exploding(self) -> dict[str, list[int]]:
        """The steps in which it was above the threshold, or not finite."""
        return self._flagged(lambda norm: not norm <= self.thresholds[1])

    def to_dict(self) -> dict[str, list[float | None]]:
        """Norms by layer name, a number a step."""
        return {name: list(norms) for name, norms in self._norms.items()}

    def to_csv(self, path: str | Path, overwrite: bool = False) -> None:
        """A table with a row a step and a column a layer; empty where no gradient came.

        Raises:
            OutputError: the file exists and ``overwrite`` is False, or cannot be written.
        """
        with whole_file(Path(path), overwrite) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["step", *self.layers])
            table.writerows([step, *norms] for step, norms in enumerate(zip(*self._norms.values(), strict=True)))

    def to_tensorboard(self, writer: Any, tag: str = "gradient_norm") -> None:
        """Writes every step to anything with ``add_scalar(tag, value, step)``, as ``tag/layer``."""
        for name, norms in self._norms.items():
            for step, norm in enumerate(norms):
                if norm is not None:
                    writer.add_scalar(f"{tag}/{name or 'model'}", norm, step)

    def __str__(self) -> str:
        return f"{self._title()}\n{text_table(_HEADER, self._cells(), _LEFT)}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{html_table(_HEADER, self._cells(), _LEFT)}"

    def _title(self) -> str:
        low, high = self.thresholds
        return (
            f"gradient norms of {_counted(len(self.layers), 'layer')} over {_counted(self.steps, 'step')}; "
            f"vanishing below {low:g}, exploding above {high:g}"
        )

    def _cells(self) -> list[tuple[str, ...]]:
        vanishing, exploding = self.vanishing, self.exploding
        rows: list[tuple[str, ...]] = []
        for name, norms in self._norms.items():
            there = [norm for norm in norms if norm is not None]
            notes = [
                f"{what} in {_counted(len(steps[name]), 'step')}"
                for what, steps in (("vanishing", vanishing), ("exploding", exploding))
                if name in steps
            ]
            if not there:
                rows.append((name or "(the model)", "no gradient", "–", "–", "–"))
                continue
            numbers = (f"{norm:.4g}" for norm in (there[-1], min(there), max(there)))
            rows.append((name or "(the model)", ", ".join(notes), *numbers))
        return rows

    def _flagged(self, is_flagged: Callable[[float], bool]) -> dict[str, list[int]]:
        flagged = {
            name: [step for step, norm in enumerate(norms) if norm is not None and is_flagged(norm)]
            for name, norms in self._norms.items()
        }
        return {name: steps for name, steps in flagged.items() if steps}


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
