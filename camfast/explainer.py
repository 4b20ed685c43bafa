"""What every method offers, also one that is made of other methods: a call, an explanation, a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from camfast.explanation import Explanation
from camfast.inputs import Inputs
from camfast.plan import Plan
from camfast.streaming import stream
from camfast.targets import Target

Self = TypeVar("Self", bound="Explainer")
Layers = nn.Module | str | Sequence[nn.Module | str]
Size = tuple[int, ...] | Literal["layer"]


class Explainer(ABC):
    """Explains the batches of one model. See :class:`camfast.GradCAM` for arguments and results."""

    model: nn.Module

    def __call__(
        self, x: Inputs, targets: Target = None, *, size: Size | None = None, normalize: bool = True
    ) -> Tensor:
        """Heatmaps [N, H, W], or [N, K, H, W]; see :meth:`explain`."""
        return self.explain(x, targets, size=size, normalize=normalize).heatmaps

    @abstractmethod
    def explain(
        self, x: Inputs, targets: Target = None, *, size: Size | None = None, normalize: bool = True
    ) -> Explanation:
        """Explain a batch; see :meth:`camfast.engine.Engine.explain`."""

    @abstractmethod
    def logits(self, x: Inputs) -> Tensor:
        """The output of the model that :meth:`explain` tells, by the model's forward pass alone, without its graph."""

    @property
    @abstractmethod
    def target_layers(self) -> list[str] | None:
        """Dotted names of the target layers; None until the first call where they are still to be found."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What it was made with; layers are None where they are found in the first call."""

    @property
    @abstractmethod
    def plan(self) -> Plan | None:
        """How the model is explained, and why; None until the first call, which decides it. Print it."""

    def stream(
        self,
        samples: Iterable[Any],
        batch_size: int = 8,
        targets: Target = None,
        *,
        size: Size | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Explanation]:
        """Explain the frames of a stream, a batch at a time, in their order.

        >>> for frame in cam.stream(frames, batch_size=16):  # doctest: +SKIP
        ...     show(frame.heatmaps[0])

        No more than one batch is taken from ``samples`` before its results are asked for, so a slow consumer slows the
        source, and memory does not grow. Leaving the loop early lets go of everything. The input of a batch lives in a
        buffer that is used again; results have memory of their own, and may be kept.

        Args:
            samples: tensors [C, H, W], preprocessed as the model wants them. Where the shape or dtype changes, a new
                batch begins.
            batch_size: how many go through the model together.
            targets: what to explain in every sample: None, a class, :class:`camfast.TopK`, or a callable.
            size: (height, width) of the heatmaps; None takes that of the sample, ``"layer"`` that of the layer.
            device: where the model is; None takes the device of the model's first parameter. On CUDA, samples from
                the host pass through pinned memory.

        Yields:
            An explanation of one sample each, as :meth:`explain` gives it, on the device.

        Raises:
            TypeError, ValueError: what is wrong with an argument, at once; with a sample, when it is its turn.
        """
        return stream(self, samples, batch_size, targets, size, device)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return  # nothing to take away: hooks exist only while a call runs
