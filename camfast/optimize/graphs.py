"""CUDA graphs: a whole explanation recorded once for a shape, and replayed without Python or launches in the way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch

from camfast.errors import first_line
from camfast.explanation import Explanation, MapForm
from camfast.inputs import Batch, normal_tensors
from camfast.targets import Classes, Scores

# Each holds the memory of a whole pass.
MOST_GRAPHS = 8

Work = Callable[[Batch, Classes], Explanation]
Record = Callable[[Callable[[], Explanation]], "Recording"]


class Recording(Protocol):
    """Work on fixed memory, which can be done again."""

    def wait(self) -> None:
        """Until what it works on may be written."""

    def replay(self) -> Explanation:
        """Does it again; the result has memory of its own."""


class CudaRecording:
    """Records work on the current device, having done it a few times before: what is lazy must not be recorded."""

    def __init__(self, work: Callable[[], Explanation]) -> None:
        self._read: torch.cuda.Event | None = None
        # Casts that autocast keeps would lie outside of the graph's memory, and not outlive the caller's block.
        enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype, enabled, cache_enabled=False):
            self._record(work)

    def _record(self, work: Callable[[], Explanation]) -> None:
        here = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(3):
                work()
        here.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
            self._result = work()

    def wait(self) -> None:
        if self._read is not None:  # another stream may be at it
            torch.cuda.current_stream().wait_event(self._read)

    def replay(self) -> Explanation:
        self._graph.replay()
        result = self._result.map(torch.clone)
        self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._read.record()
        return result


class _Recorded:
    """A recording, with the memory that its inputs are copied to."""

    def __init__(self, record: Record, work: Work, batch: Batch, targets: Classes) -> None:
        self.samples = len(batch)
        self._batch = normal_tensors(batch).map(lambda t: t.detach().clone())
        self._classes = None if targets.indices is None else targets.indices.to(batch.images.device, copy=True)
        # Classes in fixed memory are not looked at: they are checked before they get there.
        fixed = targets if self._classes is None else Classes(self._classes, checked=True)
        self._recording = record(lambda: work(self._batch, fixed))

    def explain(self, batch: Batch, targets: Classes) -> Explanation:
        self._recording.wait()
        for fixed, given in zip(self._batch.tensors, batch.tensors, strict=True):
            fixed.copy_(given.detach(), non_blocking=True)
        if self._classes is not None and targets.indices is not None:
            self._classes.copy_(targets.indices, non_blocking=True)
        return self._recording.replay()


class Graphs:
    """Replays explanations of batches that differ in their values only.

    With ``pad``, a smaller batch, of images alone, is padded with its last sample.

    One replay at a time, as its memory is fixed. What cannot be recorded is explained as without graphs, and
    ``trouble`` says why.
    """

    def __init__(self, record: Record = CudaRecording, pad: bool = True) -> None:
        self._pad = pad
        self.trouble: str | None = None
        self._record = record
        self._lock = threading.Lock()
        self._recorded: dict[Any, _Recorded | None] = {}

    def explain(self, work: Work, batch: Batch, targets: Classes | Scores, form: MapForm) -> Explanation | None:
        """What ``work`` makes of a batch; None where it is not to be had by a graph."""
        if isinstance(targets, Scores):
            self.trouble = "targets that are callables run without CUDA graphs"
            return None
        device = batch.images.device
        if any(tensor.device != device for tensor in batch.tensors):
            self.trouble = "inputs that are not on the device of the images run without CUDA graphs"
            return None
        pad = self._pad and batch.alone
        kinds = tuple((t.shape[1:] if pad else t.shape, t.dtype, t.device) for t in batch.tensors)
        autocast = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        key = (batch.form, kinds, targets.form, form, autocast)
        with torch.inference_mode(False), torch.no_grad(), self._lock, _current(device):
            recorded = self._recorded.get(key)
            if recorded is None or recorded.samples < len(batch):
                recorded = self._new(key, work, batch, targets)
            if recorded is None:
                return None
            explained = recorded.explain(batch.padded(recorded.samples), targets.padded(recorded.samples))
            return explained.part(0, len(batch))

    def _new(self, key: Any, work: Work, batch: Batch, targets: Classes) -> _Recorded | None:
        if key in self._recorded and self._recorded[key] is None:
            return None
        if key not in self._recorded and len(self._recorded) >= MOST_GRAPHS:
            self.trouble = f"more than {MOST_GRAPHS} shapes: others run without CUDA graphs"
            return None
        self._recorded.pop(key, None)  # its memory goes before there is more
        try:
            self._recorded[key] = _Recorded(self._record, work, batch, targets)
        except Exception as error:
            if isinstance(error, (torch.OutOfMemoryError, ValueError, TypeError)):
                raise
            self.trouble = f"no CUDA graph ({first_line(error)})"
            self._recorded[key] = None
        return self._recorded[key]


def _current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a CUDA device the current one, on whose streams everything here is."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
