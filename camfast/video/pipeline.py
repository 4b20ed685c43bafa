"""Reader, model and what comes after, overlapped: frames in, explained frames out, in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from types import TracebackType
from typing import Any, Literal, TypeVar

import av
import torch

from camfast.explainer import Explainer
from camfast.models import LoadedModel
from camfast.video.decoding import stays_on
from camfast.video.explainer import FIRST, FrameExplainer, chunks
from camfast.video.eye import Eye
from camfast.video.moment import Moment, Skipped
from camfast.video.on_device import DeviceCanvas, DeviceEye
from camfast.video.over_time import BETWEEN, Between, filled_in, smoothed
from camfast.video.planes import Canvas
from camfast.video.reader import Frame, VideoReader
from camfast.video.stages import Ahead, Busy, Workers
from camfast.video.timing import at_rate

R = TypeVar("R")

_SMALLEST_QUEUE = 8


@dataclass(frozen=True)
class Watching:
    """Which frames are explained, for what, and what is made of it over time.

    Raises:
        ValueError: something out of range.
    """

    target: int | Literal["first"] | None = None
    topk: int = 1
    batch_size: int = 8
    stride: int = 1
    between: Between = "interpolate"
    smooth: float = 0.0
    rate: Fraction | None = None
    """Frames a second to make of the source's; None for its own."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "stride", "topk"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is out of range; expected a whole number of at least 1")
        if not 0 <= self.smooth < 1:
            raise ValueError(f"smooth={self.smooth!r} is out of range; expected 0 to below 1")
        if self.between not in BETWEEN:
            raise ValueError(f"between={self.between!r} is unknown; expected one of {', '.join(map(repr, BETWEEN))}")
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"fps={float(self.rate)} is out of range; expected more than 0")


class Pipeline:
    """Explains the frames of a reader, in threads that overlap. Use it as a context manager, and iterate once.

    Args:
        reader: an open video.
        model, cam: what explains, and its preprocessing.
        watching: how.
        others: streams of the reader whose packets are passed on between the moments.
        skip: how many frames are only counted at the beginning.
        encoded_there: whether frames that are decoded on a device are also encoded by it.

    Raises:
        InputError: there is no frame that can be decoded.
    """

    def __init__(
        self,
        reader: VideoReader,
        model: LoadedModel,
        cam: Explainer,
        watching: Watching,
        others: Iterable[Any] = (),
        skip: int = 0,
        encoded_there: bool = False,
    ) -> None:
        self.reader = reader
        self._skip = skip
        self._watching = watching
        items: Iterator[Any] = reader.frames(tuple(others))
        if watching.rate is not None:
            items = at_rate(items, watching.rate, reader.time_base)
        self.time_base = 1 / watching.rate if watching.rate is not None else reader.time_base
        self.rate = watching.rate or reader.rate
        before: list[Any] = []
        first = None
        for item in items:
            if isinstance(item, Frame):
                first = item
                break
            before.append(item)
        if first is None:
            raise reader.no_frame()
        assert isinstance(first.picture, av.VideoFrame)
        self.first = first.picture
        self.device = reader.device if reader.device is not None and stays_on(self.first, reader.device) else None
        """Where frames stay until they are encoded; None for the CPU, where they are decoded."""
        self.canvas: Canvas
        self.eye: Eye
        if self.device is not None:
            self.canvas = DeviceCanvas(self.first, self.device, encoded_there)
            self.eye = DeviceEye(model.preprocess, self.first, self.canvas)
        else:
            self.canvas = Canvas(self.first)
            self.eye = Eye(model.preprocess, self.first)
        self._explainer = FrameExplainer(model, cam, watching.target, watching.topk)
        on_cpu = model.device.type == "cpu"
        self._workers = Workers(torch.get_num_threads() if on_cpu else 1)
        sights = self._sights(itertools.chain(before, [first], items))
        self._reader = Ahead(sights, max(watching.batch_size, _SMALLEST_QUEUE))
        self._stack = ExitStack()

    def __iter__(self) -> Iterator[Moment | Skipped | av.Packet[Any]]:
        def explained(chunk: list[Any]) -> list[Any]:
            return self._explainer(chunk, self.eye)

        items = itertools.chain.from_iterable(self.map(explained))
        return filled_in(smoothed(items, self._watching.smooth**self._watching.stride), self._watching.between)

    def map(self, function: Callable[[list[Any]], R]) -> Iterator[R]:
        """The results of a function of every chunk, in order, by the threads that are for the model."""
        # A batch for all threads together, so that what they work on fits the cache that they share.
        batch_size = -(-self._watching.batch_size // self._workers.count)
        return self._workers.map(function, chunks(self._reader, batch_size))

    @property
    def stages(self) -> dict[str, tuple[Busy, int]]:
        """The work of each stage so far, and how many threads share it."""
        return {"read": (self._reader.busy, 1), "model": (self._workers.busy, self._workers.count)}

    @property
    def refused(self) -> str | None:
        """Why the device that was asked for does not decode; None where it does, or where none was asked for."""
        if self.reader.device is not None and self.device is None:
            return f"the decoder of {self.reader.device} leaves these pictures to the CPU"
        return self.reader.refused

    def _sights(self, items: Iterator[Any]) -> Iterator[Moment | Skipped | av.Packet[Any]]:
        index = 0
        for item in items:
            if not isinstance(item, Frame):
                yield item
                continue
            # The first frame may decide the class for all.
            if index < self._skip and not (index == 0 and self._watching.target == FIRST):
                yield Skipped()
                index += 1
                continue
            picture = self.canvas.taken(item.picture)
            seen = self.eye(picture) if index % self._watching.stride == 0 else None
            yield Moment(item if picture is item.picture else replace(item, picture=picture), index, seen)
            index += 1

    def __enter__(self) -> Pipeline:
        # In this order: the reader ends before the workers, which ends what they wait for.
        self._stack.enter_context(self._workers)
        self._stack.enter_context(self._reader)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
