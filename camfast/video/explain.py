"""The frames of a video with their explanations, for a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camfast.explainer import Explainer
from camfast.methods import GradCAM
from camfast.models import LoadedModel, check_model
from camfast.render import overlay
from camfast.video.explainer import Target
from camfast.video.eye import Eye
from camfast.video.heat import Heat
from camfast.video.moment import ClassScore, Moment
from camfast.video.pipeline import Pipeline, Watching
from camfast.video.planes import rgb
from camfast.video.reader import VideoReader
from camfast.video.sources import check_source, is_live
from camfast.video.top_class import settled_target


@dataclass(frozen=True)
class ExplainedFrame:
    """One frame of a video, and what the model looked at."""

    index: int
    """Its number, from 0."""
    time: Fraction
    """When it is shown, in seconds."""
    picture: av.VideoFrame = field(repr=False)
    """As it was decoded, in its own pixel format."""
    classes: tuple[ClassScore, ...]
    """The explained class, then the most probable others, ``topk`` in all."""
    heat: Heat | None = field(repr=False)
    """The map as the layer has it, and the values that are drawn as 0 and 1."""
    region: tuple[int, int, int, int]
    """(top, left, height, width) of the part of the stored picture that the map covers."""

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture as uint8 RGB [H, W, 3], made anew each time."""
        pixels: npt.NDArray[np.uint8] = rgb(self.picture).copy()
        return pixels

    @property
    def heatmap(self) -> Tensor:
        """The map in [0, 1], float32 [h, w] of the layer's size; zeros where it is not finite."""
        if self.heat is None or not self.heat.finite:
            return torch.zeros(1, 1) if self.heat is None else torch.zeros_like(self.heat.map)
        low, high = self.heat.ranges
        scaled: Tensor = (self.heat.map - low) / (high - low).where(high > low, torch.inf)
        return scaled.clamp(0, 1)

    def overlay(self, alpha: float = 0.4, colormap: str = "jet") -> npt.NDArray[np.uint8]:
        """The picture with the heat over it, uint8 RGB [H, W, 3]."""
        if self.heat is None:
            return self.pixels
        return overlay(self.pixels, self.heat.map, alpha, colormap, region=self.region, ranges=self.heat.ranges)


def explain_video(
    source: str | Path,
    model: LoadedModel,
    *,
    cam: Explainer | None = None,
    target: Target = None,
    topk: int = 1,
    batch_size: int = 8,
    stride: int = 1,
    between: Literal["interpolate", "hold"] = "interpolate",
    smooth: float = 0.0,
    start: float = 0,
    duration: float | None = None,
    strict: bool = False,
) -> Iterator[ExplainedFrame]:
    """The frames of a video, explained, in order; they are read and explained ahead while the loop does its work.

    >>> for frame in camfast.explain_video("in.mp4", model):  # doctest: +SKIP
    ...     print(frame.time, frame.classes[0], frame.heatmap.max())

    Memory does not grow with the video. Leaving the loop ends the threads and closes the file.

    Args:
        source, model, cam, target, topk, batch_size, stride, between, start, duration, strict: as for
            :func:`camfast.annotate_video`.
        smooth: as there, but 0, as numbers are to be those of the frame.

    Raises:
        InputError: the source cannot be read, or has no frame that can be decoded.
        ValueError: something out of range, and whatever else the engine refuses.
    """
    check_model(model)
    if not is_live(source):
        check_source(source)
    cam = cam or GradCAM(model.module)
    wanted = settled_target(target, source, model, cam, batch_size, stride, start, duration, quiet=True)
    watching = Watching(wanted, topk, batch_size, stride, between, smooth)
    return _explained(source, model, cam, watching, start, duration, strict)


def _explained(
    source: str | Path,
    model: LoadedModel,
    cam: Explainer,
    watching: Watching,
    start: float,
    duration: float | None,
    strict: bool,
) -> Iterator[ExplainedFrame]:
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(source, start=start, duration=duration, strict=strict))
        pipeline = stack.enter_context(Pipeline(reader, model, cam, watching))
        for moment in pipeline:
            if isinstance(moment, Moment):
                yield _frame(moment, pipeline.eye, pipeline.time_base)


def _frame(moment: Moment, eye: Eye, time_base: Fraction) -> ExplainedFrame:
    frame = moment.frame
    assert isinstance(frame.picture, av.VideoFrame)  # no device was asked to decode
    return ExplainedFrame(moment.index, frame.pts * time_base, frame.picture, moment.classes, moment.heat, eye.region)
