"""What every method offers, also one that is made of other methods: a call, an explanation, a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from inspect import Signature
from types import TracebackType
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from camfast.explanation import Explanation
from camfast.inputs import Inputs
from camfast.options import whole_signature
from camfast.plan import Plan
from camfast.streaming import stream
from camfast.targets import Target

Self = TypeVar("Self", bound="Explainer")
Size = tuple[int, ...] | Literal["layer"]


_SIZES = {
    2: "(height, width)",
    3: "(depth, height, width), each at least 1, for volumes",
}


def is_size(size: Any, dimensions: Collection[int]) -> bool:
    """Whether it is a sequence of so many whole numbers from 1 on."""
    if not isinstance(size, Sequence) or len(size) not in dimensions:
        return False
    return all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in size)


def check_size(size: Any, images: Sequence[int], exact: bool = False) -> tuple[int, ...] | None:
    """The size of heatmaps: that of the images where none is given, None for that of the layer.

    Args:
        size: what was given.
        images: the size of the images.
        exact: whether maps have the dimensions of the images, which else is for the operator to say.

    Raises:
        ValueError: ``size`` is something else.
    """
    if size is None:
        return tuple(images)
    if isinstance(size, str) and size == "layer":
        return None
    if not is_size(size, [len(images)] if exact else _SIZES):
        raise ValueError(
            f'size={size!r}; expected {_SIZES[len(images)]}, "layer", or None for that of the images; a side is a '
            "whole number of at least 1"
        )
    return tuple(size)


class Explainer(ABC):
    """Explains the batches of one model. See :class:`camfast.GradCAM` for arguments and results."""

    model: nn.Module
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__signature__ = whole_signature(cls)

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
