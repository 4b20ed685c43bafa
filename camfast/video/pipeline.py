"""Video in, explained video out: read, explain, lay over, write, a batch at a time."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from camfast.backends import serving
from camfast.engine import Engine
from camfast.errors import InputError, OutputError
from camfast.files import check_output, whole_file
from camfast.methods import GradCAM
from camfast.models import LoadedModel
from camfast.progress import Progress
from camfast.render import overlay_
from camfast.video.reader import Frame, VideoReader
from camfast.video.writer import VideoWriter, check_suffix


@dataclass(frozen=True)
class VideoSummary:
    """What was done to one video."""

    source: Path
    output: Path
    frames: int
    seconds: float
    classes: dict[str, int]
    """How many frames each class was explained in, the most frequent first."""
    kernels: str
    damage: str | None
    """What was wrong with the source; None where it was whole."""
    left_out: list[str]
    """Streams of the source that the output's container does not take."""

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        shown = ", ".join(f"{name} ({count})" for name, count in itertools.islice(self.classes.items(), 5))
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        return (
            f"{self.output}: {frames} in {self.seconds:.1f} s, {self.frames_per_second:.1f} frames/s\n"
            f"  classes (frames): {shown}\n"
            f"  kernels: {self.kernels}"
        )


def annotate_video(
    source: str | Path,
    output: str | Path,
    model: LoadedModel,
    *,
    cam: Engine | None = None,
    target: int | None = None,
    batch_size: int = 8,
    alpha: float = 0.4,
    colormap: str = "jet",
    overwrite: bool = False,
    quiet: bool = False,
) -> VideoSummary:
    """Lay the heatmap of every frame over a video.

    The output has the size, rate, time stamps and length of the source, and its sound. The heat covers what the model
    saw: the centre of the frame where its preprocessing crops. From a damaged source everything that can be read is
    written, and the summary says what was wrong.

    >>> model = camfast.load_model("resnet50")  # doctest: +SKIP
    >>> print(camfast.annotate_video("in.mp4", "out.mp4", model))  # doctest: +SKIP

    Args:
        source: any video that FFmpeg reads.
        output: .mp4, .mov or .mkv; written under a temporary name and renamed when whole.
        model: from :func:`camfast.load_model`.
        cam: an engine on ``model.module``; by default Grad-CAM at the last layer with a feature map.
        target: the class to explain; None explains the predicted class of each frame.
        batch_size: frames in one pass.
        alpha, colormap: as for :func:`camfast.overlay`.
        overwrite: replace an output that exists.
        quiet: no progress.

    Raises:
        InputError: the source cannot be read, or has no frame that can be decoded.
        OutputError: the output exists, is the source, or cannot be written.
        ValueError: a class out of range, and whatever else the engine refuses.
    """
    source, output = Path(source), Path(output)
    if not isinstance(model, LoadedModel):
        raise TypeError(
            f"model is a {type(model).__name__}; expected a LoadedModel, as camfast.load_model() gives, or made of a "
            "module, its preprocessing and its class names"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is out of range; expected at least 1")
    check_suffix(output)
    if output.exists() and source.exists() and output.samefile(source):
        raise OutputError(f"{output} is the source itself; give another name")
    check_output(output, overwrite)
    cam = cam or GradCAM(model.module)
    classes: Counter[str] = Counter()
    started = time.perf_counter()

    with VideoReader(source) as reader, whole_file(output, overwrite) as temporary:
        region = model.preprocess.seen(reader.height, reader.width)
        with (
            VideoWriter(temporary, reader) as writer,
            Progress(source.name, reader.announced_frames, "frames", quiet=quiet) as progress,
        ):
            others = tuple(reader.container.streams[index] for index in writer.copied)
            for batch in _batches(reader.frames(writer.copy, others), batch_size):
                frames = torch.from_numpy(np.stack([frame.pixels for frame in batch])).to(model.device)
                explained = cam.explain(model.preprocess(frames), target, size=(region.height, region.width))
                blended = overlay_(frames, explained.heatmaps, alpha, colormap, region=region).cpu().numpy()
                for pixels, frame in zip(blended, batch, strict=True):
                    writer.write(frame, pixels)
                assert explained.targets is not None  # classes were asked for
                classes.update(map(model.class_name, explained.targets.tolist()))
                progress.advance(len(batch))
            writer.finish()
            if reader.decoded == 0:
                raise InputError(f"{source} has no frame that can be decoded")
    return VideoSummary(
        source,
        output,
        reader.decoded,
        time.perf_counter() - started,
        dict(classes.most_common()),
        str(serving(model.device)),
        reader.damage,
        writer.left_out,
    )


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    iterator = iter(frames)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
