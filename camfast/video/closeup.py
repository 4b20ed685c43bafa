"""The part of a picture that is kept, resized as in the whole: what would be cut off takes no work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from camfast.placement import Region
from camfast.video.planes import resized_rgb

_REACH = 4
"""Samples, of the picture and of its chroma at half the size, that swscale's filters look at on either side at most."""


@dataclass(frozen=True)
class _Span:
    """A stretch of one side, before and after it is resized."""

    source: int
    source_length: int
    start: int
    length: int


class CloseUp:
    """Resizes a part of pictures that are of one size and format, on the grid of the whole.

    Args:
        picture: the first of them.
        height, width: to which the whole would be resized.
        wanted: what of that is kept.
    """

    def __init__(self, picture: av.VideoFrame, height: int, width: int, wanted: Region) -> None:
        self._kind = _kind(picture)
        self._wanted = wanted
        self._rows = _span(picture.height, height, wanted.top, wanted.height)
        self._columns = _span(picture.width, width, wanted.left, wanted.width)
        whole = self._rows.length == height and self._columns.length == width
        self._graph = None if whole or not _can_be_cut(picture) else self._opened(picture)

    def takes(self, picture: av.VideoFrame) -> bool:
        """Whether this one is of the same kind, and there is work to be saved."""
        return self._graph is not None and _kind(picture) == self._kind

    def __call__(
        self, picture: av.VideoFrame, interpolation: Interpolation | None, reformatter: VideoReformatter
    ) -> Tensor:
        """What is kept: uint8 RGB [3, height, width]."""
        assert self._graph is not None
        self._graph.push(picture)
        part: Any = self._graph.pull()  # in the memory of the picture
        small = resized_rgb(part, self._rows.length, self._columns.length, interpolation, reformatter)
        top, left = self._wanted.top - self._rows.start, self._wanted.left - self._columns.start
        return small[:, top : top + self._wanted.height, left : left + self._wanted.width]

    def _opened(self, picture: av.VideoFrame) -> Graph:
        rows, columns = self._rows, self._columns
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=picture.width,
            height=picture.height,
            format=picture.format,
            time_base=picture.time_base or Fraction(1, 25),
        )
        cut = graph.add("crop", f"{columns.source_length}:{rows.source_length}:{columns.source}:{rows.source}:exact=1")
        graph.link_nodes(source, cut, graph.add("buffersink")).configure()
        return graph


def _kind(picture: av.VideoFrame) -> tuple[str, int, int, int, int]:
    return (picture.format.name, picture.width, picture.height, int(picture.colorspace), int(picture.color_range))


def _can_be_cut(picture: av.VideoFrame) -> bool:
    """Whether it lies in the host's memory, a chroma sample for every other pixel at least, and samples are bytes."""
    kind = picture.format
    return (
        picture.sw_format is None
        and min(kind.chroma_width(4), kind.chroma_height(4)) >= 2
        and not kind.is_bit_stream
        and not kind.has_palette
    )


def _span(length: int, resized: int, first: int, count: int) -> _Span:
    """The least stretch that holds some samples of a resized side, between places where both grids meet.

    Only there, and at even samples, where chroma has one too, does a part resized by itself lie on the whole's grid.
    """
    common = math.gcd(length, resized)
    step, resized_step = length // common, resized // common
    if step % 2:
        step, resized_step = 2 * step, 2 * resized_step
    reach = math.ceil(_REACH * max(1, resized / length)) + 1
    begin = max(first - reach, 0) // resized_step
    end = -(-min(first + count + reach, resized) // resized_step)
    source_end, resized_end = min(end * step, length), min(end * resized_step, resized)
    return _Span(begin * step, source_end - begin * step, begin * resized_step, resized_end - begin * resized_step)
