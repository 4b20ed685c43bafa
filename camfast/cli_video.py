"""The arguments of ``camfast video``, and what it says."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camfast.arguments import path, positive_seconds, rate, seconds, share, whole_number
from camfast.errors import CamfastError, InputError, OutputError
from camfast.exits import DAMAGED, SUCCESS, fail
from camfast.explainer import Explainer
from camfast.files import check_output, make_folder
from camfast.models import LoadedModel
from camfast.video import VideoSummary, annotate_video
from camfast.video.annotate import SMOOTH
from camfast.video.artist import VIDEO_LAYOUTS
from camfast.video.decoding import DECODE
from camfast.video.encoding import CODECS, check_suffix
from camfast.video.explainer import CLIP, FIRST
from camfast.video.over_time import BETWEEN
from camfast.video.sources import check_source, is_live

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".ts", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".mxf")
"""What is taken for a video in a folder."""

EXAMPLES = """\
camfast video in.mp4 -o out.mp4
  camfast video in.mp4 -o out.mp4 --model resnet50 --precision int8
  camfast video in.mkv -o out.mkv --target "sports car" --colormap viridis --alpha 0.5 --label
  camfast video in.mp4 -o out.mp4 --start 60 --duration 10 --layout side-by-side
  camfast video in.mp4 -o out.mp4 --stride 4                    explain every fourth frame
  camfast video in.mp4 -o out.mp4 --save-maps maps.npz --csv classes.csv
  camfast video clips/ -o explained/                            every video of a folder
  cat in.mp4 | camfast video - -o out.mp4                       a pipe; a number is a camera
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything of ``camfast video`` but the model and the explanation."""
    parser.add_argument(
        "paths",
        metavar="IN",
        nargs="+",
        help="videos that FFmpeg reads, folders of them, or patterns; - for standard input, a number for a camera",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=path,
        required=True,
        help="a file (.mp4, .mov, .mkv), or for several videos a folder",
    )
    frames = parser.add_argument_group("frames")
    frames.add_argument("--start", metavar="SECONDS", type=seconds, default=0.0, help="leave out the beginning")
    frames.add_argument("--duration", metavar="SECONDS", type=positive_seconds, help="how much to read (default: all)")
    frames.add_argument(
        "--stride", metavar="N", type=whole_number, default=1, help="explain every Nth frame (default: 1)"
    )
    frames.add_argument(
        "--between",
        choices=BETWEEN,
        default=BETWEEN[0],
        help="the heat of frames that --stride leaves out: on the way to the next one's, or that of the last one "
        f"(default: {BETWEEN[0]})",
    )
    frames.add_argument(
        "--smooth",
        metavar="S",
        type=share,
        default=SMOOTH,
        help=f"share of the heat before in that of a frame, against flicker; 0 turns it off (default: {SMOOTH})",
    )
    frames.add_argument("--fps", metavar="N", type=rate, help="frames a second of the output (default: the video's)")

    drawn = parser.add_argument_group("picture")
    drawn.add_argument(
        "--layout",
        choices=VIDEO_LAYOUTS,
        default=VIDEO_LAYOUTS[0],
        help="heat over the frame; the frame beside that; or the heat alone, on black (default: overlay)",
    )
    drawn.add_argument("--label", action="store_true", help="write class and probability on the frame")
    drawn.add_argument(
        "--topk",
        metavar="K",
        type=whole_number,
        default=1,
        help="classes in labels and tables (default: 1, the explained)",
    )
    drawn.add_argument(
        "--codec", default="h264", help=f"{', '.join(CODECS)}, or an encoder of FFmpeg by its name (default: h264)"
    )
    drawn.add_argument("--crf", metavar="Q", type=float, help="quality, less is better (default: h264 18)")
    drawn.add_argument("--preset", help="speed against size (default: h264 veryfast)")

    kept = parser.add_argument_group("also written")
    kept.add_argument("--frames", metavar="DIR", type=path, help="a PNG of every frame")
    kept.add_argument("--save-maps", metavar="FILE", type=path, help=".npz of the layer's maps, classes and times")
    kept.add_argument("--csv", metavar="FILE", type=path, help="class and probability of every frame")

    run = parser.add_argument_group("run")
    run.add_argument("--strict", action="store_true", help="fail at the first damage instead of skipping it")
    run.add_argument(
        "--resume",
        action="store_true",
        help="go on from what a killed run with the same options has left; not with --frames, --save-maps or --csv",
    )
    run.add_argument(
        "--decode",
        choices=DECODE,
        default=DECODE[0],
        help="on the model's device where its decoder opens, else on the CPU; on the CPU; or on the device, or fail "
        "(default: auto)",
    )
    run.add_argument("--json", action="store_true", help="the summary as one JSON object on standard output")


def outputs_of(sources: Sequence[str], output: Path) -> list[tuple[str, Path]]:
    """Every video with the file that it becomes.

    Raises:
        InputError: a folder or a pattern without a video.
        OutputError: several videos, and one file to write; or two that would be written to one file.
    """
    found = [path for source in sources for path in _expanded(source)]
    several = len(found) > 1 or any(_is_several(source) for source in sources)
    if not several:
        if output.is_dir() and not is_live(found[0]):
            output = output / f"{Path(found[0]).stem}.mp4"
        check_suffix(output)
        return [(found[0], output)]
    if output.suffix and not output.is_dir():
        raise OutputError(f"{output} is one file for several videos; give a folder")
    names: dict[Path, str] = {}
    for source in found:
        name = output / f"{Path(source).stem}.mp4"
        if name in names:
            raise OutputError(f"{names[name]} and {source} would both be written to {name}; give them apart")
        names[name] = source
    make_folder(output)
    return [(source, name) for name, source in names.items()]


def run(
    options: argparse.Namespace, pairs: Sequence[tuple[str, Path]], model: LoadedModel, cam: Explainer, target: Any
) -> int:
    """The command; returns its exit code."""
    told: list[dict[str, Any]] = []
    worst = SUCCESS
    several = len(pairs) > 1
    for source, output in pairs:
        try:
            summary = _annotate(options, source, output, model, cam, target)
        except CamfastError as error:
            if not several:
                raise
            code = fail(str(error) if source in str(error) else f"{source}: {error}")
            worst = worst or code
            continue
        except BaseException as stop:
            if hasattr(stop, "summary"):  # interrupted: what was written is whole
                _say(stop.summary, options)
            raise
        told.append(summary.as_dict())
        code = _say(summary, options, named=several)
        worst = worst or code
    if options.json:
        print(json.dumps(told if several else told[0] if told else None))
    return worst


def check(options: argparse.Namespace) -> list[tuple[str, Path]]:
    """What is to be done, with what can be refused before a model is loaded refused.

    Raises:
        InputError, OutputError: a source that is not there, an output that exists.
    """
    pairs = outputs_of(options.paths, options.output)
    for option, name in (("--frames", "frames"), ("--save-maps", "save_maps"), ("--csv", "csv")):
        if len(pairs) > 1 and getattr(options, name) is not None:
            raise OutputError(f"{option} is for one video; {len(pairs)} are given")
    for source, output in pairs:
        if len(pairs) == 1 and not is_live(source):
            check_source(source)
        if len(pairs) == 1 and not options.overwrite:
            check_output(output, overwrite=False)
    return pairs


def _annotate(
    options: argparse.Namespace, source: str, output: Path, model: LoadedModel, cam: Explainer, target: Any
) -> VideoSummary:
    return annotate_video(
        source,
        output,
        model,
        cam=cam,
        target=target,
        topk=options.topk,
        batch_size=options.batch_size,
        stride=options.stride,
        between=options.between,
        smooth=options.smooth,
        start=options.start,
        duration=options.duration,
        alpha=options.alpha,
        colormap=options.colormap,
        layout=options.layout,
        label=options.label,
        codec=options.codec,
        crf=options.crf,
        preset=options.preset,
        fps=options.fps,
        frames=options.frames,
        maps=options.save_maps,
        table=options.csv,
        overwrite=options.overwrite,
        resume=options.resume,
        strict=options.strict,
        decode=options.decode,
        quiet=options.quiet,
    )


def _say(summary: VideoSummary, options: argparse.Namespace, *, named: bool = False) -> int:
    """Tells what was done, with the name of the source where there are several; the exit code that it deserves."""
    which = f"{summary.source}: " if named else ""
    if not options.quiet and not options.json:
        print(summary)
    if summary.left_out:
        print(f"camfast: warning: {which}not copied: {', '.join(summary.left_out)}", file=sys.stderr)
    if summary.encoded_anew and not options.quiet:
        print(f"camfast: note: {which}encoded as AAC: {', '.join(summary.encoded_anew)}", file=sys.stderr)
    if summary.notes and not options.quiet:
        print(f"camfast: note: {which}{'; '.join(summary.notes)}", file=sys.stderr)
    if summary.damage:
        said = f"{summary.source} is damaged: {summary.damage}; {summary.frames} frames were written"
        return fail(said, DAMAGED)
    return SUCCESS


def target_of(text: str | None, model: LoadedModel) -> Any:
    """What ``--target`` means."""
    return text if text in (None, FIRST, CLIP) else model.class_index(str(text))


def _is_several(source: str) -> bool:
    return not is_live(source) and (Path(source).is_dir() or (glob.has_magic(source) and not Path(source).exists()))


def _expanded(source: str) -> list[str]:
    if not _is_several(source):
        return [source]
    if Path(source).is_dir():
        found = sorted(str(path) for path in Path(source).iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(f"folder {source} has no video ({', '.join(SUFFIXES)})")
        return found
    found = sorted(path for path in glob.glob(source, recursive=True) if Path(path).is_file())
    if not found:
        raise InputError(f"no file is named like {source!r}")
    return found
