"""Video in, explained video out."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import torch
from torch import nn

from camfast.backends import serving
from camfast.errors import InputError, OutputError
from camfast.explainer import Explainer
from camfast.files import check_output
from camfast.methods import GradCAM
from camfast.models import LoadedModel, check_model
from camfast.progress import Progress
from camfast.video.artist import VIDEO_LAYOUTS, Artist, VideoLayout
from camfast.video.decoding import Decode, device_for
from camfast.video.encoding import Encoding, check_suffix, encoding_on_device
from camfast.video.explainer import Target
from camfast.video.leftover import Leftover
from camfast.video.moment import Moment, Skipped
from camfast.video.orientation import display_matrix
from camfast.video.output import Output
from camfast.video.over_time import warm_up
from camfast.video.partial import Partial
from camfast.video.pipeline import Pipeline, Watching
from camfast.video.reader import VideoReader
from camfast.video.records import opened_records
from camfast.video.sources import is_live
from camfast.video.stages import Sink
from camfast.video.summary import VideoSummary, shares
from camfast.video.top_class import settled_target
from camfast.video.writer import Picture, VideoWriter

SMOOTH = 0.7
"""Share of the heat before in that of a frame, where nothing else is asked for: a tenth of a second at 25 frames/s."""
_WAITING = 8
"""Frames that wait for the encoder at most."""


def annotate_video(
    source: str | Path,
    output: str | Path,
    model: LoadedModel,
    *,
    cam: Explainer | None = None,
    target: Target = None,
    topk: int = 1,
    batch_size: int = 8,
    stride: int = 1,
    between: Literal["interpolate", "hold"] = "interpolate",
    smooth: float = SMOOTH,
    start: float = 0,
    duration: float | None = None,
    alpha: float = 0.4,
    colormap: str = "jet",
    layout: VideoLayout = "overlay",
    label: bool = False,
    codec: str = "h264",
    crf: float | None = None,
    preset: str | None = None,
    fps: float | Fraction | None = None,
    frames: str | Path | None = None,
    maps: str | Path | None = None,
    table: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    strict: bool = False,
    decode: Decode = "auto",
    quiet: bool = False,
) -> VideoSummary:
    """Lay the heatmap of every frame over a video.

    The output has the size, rate, time stamps, length, rotation and colour tags of the source, and its sound. The heat
    covers what the model saw: the centre of the frame where its preprocessing crops; pixels outside are those of the
    source. Pictures are 8-bit 4:2:0 (4:4:4 where a side is odd): deeper ones are rounded, transparency is left out,
    interlaced ones are taken as whole pictures. From a damaged source everything that can be read is written, and the
    summary says what was wrong.

    >>> model = camfast.load_model("resnet50")  # doctest: +SKIP
    >>> print(camfast.annotate_video("in.mp4", "out.mp4", model))  # doctest: +SKIP

    Args:
        source: any video that FFmpeg reads; ``"-"`` for standard input, or the number of a camera.
        output: .mp4, .mov or .mkv; written under a temporary name, in a form that can be played at any time, and
            renamed when whole. Ctrl-C ends it early, as a whole file, and KeyboardInterrupt is raised with ``summary``.
        model: from :func:`camfast.load_model`.
        cam: an engine on ``model.module``; by default Grad-CAM at the last layer with a feature map.
        target: the class to explain; None explains the predicted class of each frame, ``"first"`` that of the first
            frame, ``"clip"`` the most probable one over the whole clip (which is read twice).
        topk: how many classes labels and tables tell: the explained one, then the most probable others.
        batch_size: frames in the model at a time; on the CPU its threads share them, in passes of their own.
        stride: explain every Nth frame only.
        between: the heat of frames between: ``"interpolate"``, or ``"hold"`` that of the last one.
        smooth: share of the heat before in that of a frame, so that it does not flicker; 0 turns it off.
        start, duration: seconds of the source to leave out, and to read.
        alpha, colormap: as for :func:`camfast.overlay`.
        layout: ``"overlay"``; ``"side-by-side"``, the frame left and the overlay right; ``"heatmap"``, on black.
        label: write the classes and their probability on the frame.
        codec: ``h264``, ``hevc``, ``av1``, ``vp9``, ``ffv1``, or the name of an encoder of FFmpeg.
        crf, preset: quality (less is better) and speed of the encoder; None for what it has here.
        fps: frames a second of the output; None keeps the source's time stamps.
        frames: a folder for a PNG of every frame written.
        maps: an .npz file for the maps of all frames; see :class:`camfast.video.records.MapsFile`.
        table: a CSV file for class and probability of every frame.
        overwrite: replace outputs that exist.
        resume: go on from what an earlier call has left that was killed.
        strict: raise at the first damage of the source.
        decode: where frames are decoded: ``"auto"``, on the model's device where a decoder of it opens, and they stay
            there until they are encoded; ``"cpu"``; or ``"device"``, which raises where that cannot be.
        quiet: no progress.

    Raises:
        InputError: the source cannot be read, has no frame that can be decoded, or not on the device that is asked for.
        OutputError: the output exists, is the source, or cannot be written; what was left cannot be gone on from.
        ValueError: something out of range, and whatever else the engine refuses.
    """
    output = Path(output)
    check_model(model)
    if layout not in VIDEO_LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; expected one of {', '.join(map(repr, VIDEO_LAYOUTS))}")
    check_suffix(output)
    paths = [Path(path) for path in (output, maps, table) if path is not None]
    _check_apart(source, paths)
    for path in paths:
        check_output(path, overwrite)
    if resume and (is_live(source) or frames or maps or table):
        what = "a source that can be read only once" if is_live(source) else "frames, maps or table, which begin anew"
        raise OutputError(f"resume is not possible with {what}; leave out --resume (resume=True)")
    encoding = Encoding(codec, crf, preset)
    device = device_for(decode, model.device)
    cam = cam or GradCAM(model.module)
    wanted = settled_target(target, source, model, cam, batch_size, stride, start, duration, quiet=quiet)
    rate = None if fps is None else Fraction(fps).limit_denominator(10**5)
    watching = Watching(wanted, topk, batch_size, stride, between, smooth, rate)

    begun = time.perf_counter()
    stopped: BaseException | None = None
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(source, start=start, duration=duration, strict=strict, device=device))
        if reader.device is not None:
            width = reader.width * (2 if layout == "side-by-side" else 1)
            encoding = encoding_on_device(encoding, width, reader.height, reader.device)
        drawn = dict(start=start, duration=duration, alpha=alpha, colormap=colormap, layout=layout, label=label)
        made_by = _what_decides(source, model, cam, watching, encoding, drawn)
        partial = stack.enter_context(Partial(output, overwrite, made_by, resume))
        left = stack.enter_context(Leftover(partial.left)) if partial.goes_on else None
        again = 0 if left is None else max(left.frames - warm_up(watching.smooth, watching.stride), 0)
        others = [stream for stream in reader.container.streams if stream.type in ("audio", "subtitle")]
        pipeline = stack.enter_context(
            Pipeline(reader, model, cam, watching, others, again, encoded_there=encoding.takes_surfaces)
        )
        refused = pipeline.refused
        if decode == "device" and refused is not None:
            raise InputError(f"{reader.name} cannot be decoded on {device}: {refused}")
        artist = Artist(pipeline.canvas, pipeline.eye, alpha=alpha, colormap=colormap, layout=layout, label=label)
        region = pipeline.eye.region
        records = stack.enter_context(opened_records(_path(table), _path(maps), _path(frames), region, overwrite))
        kept = {} if not reader.whole else {"chapters": reader.container.chapters()}
        writer = stack.enter_context(
            VideoWriter(
                partial.path,
                _picture(pipeline, artist, encoding),
                encoding,
                others,
                dict(reader.container.metadata),
                **kept,
            )
        )
        progress = stack.enter_context(
            Progress(Path(reader.name).name, _expected(reader, watching), "frames", quiet=quiet)
        )
        output_file = Output(writer, artist, records, pipeline.time_base, left)
        sink: Sink[Moment | Skipped | av.Packet[Any]] = stack.enter_context(Sink(output_file.write, _WAITING))
        stages = {**pipeline.stages, "write": (sink.busy, 1)}
        try:
            for item in pipeline:
                sink.put(item)
                if isinstance(item, (Moment, Skipped)):
                    progress.advance(1, lambda: shares(_busy(stages, begun)))
        except BaseException as error:
            if isinstance(error, (Exception, GeneratorExit)):
                raise
            stopped = error  # Ctrl-C and the like: what was explained is kept, as a whole file
        sink.finish()
        if output_file.written == 0:
            raise stopped or InputError(f"{reader.name} has no frame that can be decoded")
        writer.finish()
    summary = VideoSummary(
        reader.name,
        output,
        output_file.written,
        time.perf_counter() - begun,
        dict(output_file.classes.most_common()),
        str(serving(model.device)),
        None if stopped else reader.damage,
        writer.others.left_out,
        writer.others.encoded_anew,
        _busy(stages, begun),
        pipeline.canvas.losses,
        str(pipeline.device or "cpu"),
        encoding.encoder,
        refused,
        interrupted=stopped is not None,
        taken_over=output_file.taken_over,
    )
    if stopped is not None:
        stopped.summary = summary  # type: ignore[attr-defined]
        raise stopped
    return summary


def _picture(pipeline: Pipeline, artist: Artist, encoding: Encoding) -> Picture:
    """What the written pictures have in common, from the first one that was read."""
    first, stream = pipeline.first, pipeline.reader.stream
    return Picture(
        pipeline.canvas,
        artist.width,
        artist.height,
        pipeline.rate,
        pipeline.time_base,
        stream.sample_aspect_ratio,
        display_matrix(first),
        int(first.color_primaries),
        int(first.color_trc),
        pipeline.device if encoding.takes_surfaces else None,
        dict(stream.metadata),
    )


def _what_decides(
    source: str | Path,
    model: LoadedModel,
    cam: Explainer,
    watching: Watching,
    encoding: Encoding,
    drawn: dict[str, Any],
) -> dict[str, Any]:
    """Everything that the output depends on, by a name that an error can say."""
    file = None if is_live(source) or not Path(source).exists() else Path(source).stat()
    return {
        "the source": str(source),
        "the content of the source": None if file is None else [file.st_size, file.st_mtime_ns],
        "the model": model.name,
        "where its weights are from": model.weights,
        "what its weights are": [_checksum(model.module)],
        "what the model sees": asdict(model.preprocess),
        "the method": cam.settings,
        **asdict(watching),
        **drawn,
        **asdict(encoding),
        "FFmpeg": av.library_versions,
    }


def _checksum(module: nn.Module) -> int:
    """Of all weights, which need not be those of a file: random ones are others every time."""
    checksum = 0
    for tensor in (*module.parameters(), *module.buffers()):
        checksum = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _expected(reader: VideoReader, watching: Watching) -> int | None:
    frames = reader.expected_frames
    return frames if frames is None or watching.rate is None else round(frames * watching.rate / reader.rate)


def _busy(stages: dict[str, Any], begun: float) -> dict[str, float]:
    passed = max(time.perf_counter() - begun, 1e-9)
    return {name: round(min(busy.seconds / passed / threads, 1.0), 3) for name, (busy, threads) in stages.items()}


def _check_apart(source: str | Path, outputs: Iterable[Path]) -> None:
    path = Path(source)
    for output in outputs:
        if not is_live(source) and output.exists() and path.exists() and output.samefile(path):
            raise OutputError(f"{output} is the source itself; give another name")
