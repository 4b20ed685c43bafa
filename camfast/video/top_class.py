"""What a target means that is no class: that of the whole clip, read beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from camfast.errors import InputError
from camfast.explainer import Explainer
from camfast.models import LoadedModel
from camfast.progress import Progress
from camfast.video.explainer import CLIP, FIRST, FrameExplainer, Target
from camfast.video.pipeline import Pipeline, Watching
from camfast.video.reader import VideoReader
from camfast.video.sources import is_live


def settled_target(target: Target, *where: Any, quiet: bool) -> int | Literal["first"] | None:
    """The target, where need be of the whole clip; ``where`` is as for :func:`top_class_of`.

    Raises:
        ValueError: no such target.
    """
    if target == CLIP:
        return top_class_of(*where, quiet=quiet)
    if isinstance(target, str) and target != FIRST:
        raise ValueError(f"target={target!r} is unknown; expected a class, None, {FIRST!r} or {CLIP!r}")
    return target


def top_class_of(
    source: str | Path,
    model: LoadedModel,
    cam: Explainer,
    batch_size: int,
    stride: int,
    start: float,
    duration: float | None,
    *,
    quiet: bool = False,
) -> int:
    """The class with the greatest mean probability over the frames of a clip.

    Raises:
        InputError: the source cannot be read twice, or has no frame that can be decoded.
    """
    if is_live(source):
        raise InputError(f"target={CLIP!r} reads the video twice, which {source!r} cannot be; give a file, or 'first'")
    explainer = FrameExplainer(model, cam, None)
    total: torch.Tensor | None = None
    watching = Watching(None, batch_size=batch_size, stride=stride)
    with (
        VideoReader(source, start=start, duration=duration) as reader,
        Pipeline(reader, model, cam, watching) as pipeline,
        Progress(f"{Path(reader.name).name}: class", reader.expected_frames, "frames", quiet=quiet) as progress,
    ):
        for logits, count in pipeline.map(explainer.logits_of):
            progress.advance(count)
            if len(logits):
                probabilities = logits.float().softmax(dim=1).sum(dim=0)
                total = probabilities if total is None else total + probabilities
    if total is None:
        raise InputError(f"{reader.name} has no frame that can be decoded")
    return int(total.argmax())
