"""The class that a whole clip is most probably of."""

from __future__ import annotations

from pathlib import Path

import torch

from camfast.engine import Engine
from camfast.errors import InputError
from camfast.models import LoadedModel
from camfast.progress import Progress
from camfast.video.explainer import CLIP, Explainer
from camfast.video.pipeline import Pipeline, Watching
from camfast.video.reader import VideoReader
from camfast.video.sources import is_live


def top_class_of(
    source: str | Path,
    model: LoadedModel,
    cam: Engine,
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
    explainer = Explainer(model, cam, None)
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
