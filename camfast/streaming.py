"""Streams of frames through an engine: batches of bounded memory, results in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from camfast.explanation import Explanation
from camfast.targets import Target, check_targets, is_sequence

if TYPE_CHECKING:
    from camfast.explainer import Explainer, Size


def stream(
    engine: Explainer,
    samples: Iterable[Any],
    batch_size: int,
    targets: Target,
    size: Size | None,
    device: torch.device | str | None,
) -> Iterator[Explanation]:
    """See :meth:`camfast.explainer.Explainer.stream`."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}; expected a whole number of at least 1")
    if isinstance(samples, Tensor) and samples.dim() != 4:
        raise ValueError(f"samples has shape {list(samples.shape)}; expected [N, C, H, W], or an iterable of [C, H, W]")
    if not isinstance(samples, Iterable):
        raise TypeError(f"samples is a {type(samples).__name__}; expected an iterable of tensors [C, H, W]")
    if is_sequence(targets):
        raise ValueError(
            f"targets is a {type(targets).__name__}; expected what holds for every sample of a stream: None, a class, "
            "TopK, or a callable"
        )
    check_targets(targets, 0)
    if device is None:
        device = next((tensor.device for tensor in engine.model.parameters()), torch.device("cpu"))
    return _explained(engine, samples, _Buffers(batch_size, torch.device(device)), targets, size)


def _explained(
    engine: Explainer, samples: Iterable[Any], buffers: _Buffers, targets: Target, size: Size | None
) -> Iterator[Explanation]:
    waiting: Tensor | None = None  # the first sample that did not fit the batch before
    source = enumerate(samples)
    while True:
        if waiting is not None:
            buffers.add(waiting)
            waiting = None
        for index, sample in source:
            _check_sample(index, sample)
            if not buffers.add(sample):
                waiting = sample
                break
            if buffers.full:
                break
        if len(buffers) == 0:
            return
        explained = engine.explain(buffers.take(), targets, size=size)
        for n in range(len(explained)):
            yield explained.part(n, n + 1)
        del explained


def _check_sample(index: int, sample: Any) -> None:
    if not isinstance(sample, Tensor):
        raise TypeError(f"samples[{index}] is a {type(sample).__name__}; expected a tensor [C, H, W]")
    if sample.dim() != 3:
        raise ValueError(f"samples[{index}] has shape {list(sample.shape)}; expected [C, H, W]")
    if not sample.is_floating_point():
        raise TypeError(
            f"samples[{index}] has dtype {sample.dtype}; expected a floating tensor, preprocessed as the model wants it"
        )


class _Buffers:
    """Memory for a batch, used again and again: on the device, and pinned on the host where samples come from there."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self._batch_size = batch_size
        self._device = device
        self._staged: Tensor | None = None
        self._batch: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    @property
    def full(self) -> bool:
        return self._filled == self._batch_size

    def add(self, sample: Tensor) -> bool:
        """Takes a sample into the batch; False for one of another shape, dtype or place, which begins the next."""
        # Whatever the caller's modes are: the buffers outlive them, and no graph may grow in them.
        with torch.inference_mode(False), torch.no_grad():
            return self._add(sample.detach())

    def _add(self, sample: Tensor) -> bool:
        if self._filled == 0:
            self._prepare(sample)
        staged = self._staged
        assert staged is not None
        if sample.shape != staged.shape[1:] or sample.dtype != staged.dtype or self._staging(sample) != staged.device:
            return False
        staged[self._filled].copy_(sample)
        self._filled += 1
        return True

    def take(self) -> Tensor:
        """The batch [n, C, H, W] on the device, good until the next sample is added."""
        assert self._staged is not None
        filled, self._filled = self._filled, 0
        if self._batch is None:
            return self._staged[:filled]
        with torch.inference_mode(False), torch.no_grad():
            self._batch[:filled].copy_(self._staged[:filled], non_blocking=True)
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._copied.record(torch.cuda.current_stream(self._device))
        return self._batch[:filled]

    def _staging(self, sample: Tensor) -> torch.device:
        """Where samples are put together: those of the host there, as one transfer is faster than many."""
        return sample.device if self._device.type == "cuda" and not sample.is_cuda else self._device

    def _prepare(self, sample: Tensor) -> None:
        place = self._staging(sample)
        shape = (self._batch_size, *sample.shape)
        if self._copied is not None:
            self._copied.synchronize()  # the transfer before may still read what is written now
            self._copied = None
        if self._staged is None or (self._staged.shape, self._staged.dtype, self._staged.device) != (
            shape,
            sample.dtype,
            place,
        ):
            pinned = place != self._device
            self._staged = torch.empty(shape, dtype=sample.dtype, device=place, pin_memory=pinned)
            self._batch = torch.empty(shape, dtype=sample.dtype, device=self._device) if pinned else None
