"""The arguments of ``camfast bench``, and the table that it prints. What it measures is in :mod:`camfast.trial`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camfast import demo
from camfast.allocator import keep_memory
from camfast.arguments import add_model, add_weights, positive_seconds, whole_number
from camfast.errors import InputError
from camfast.exits import FAILURE, SUCCESS, fail
from camfast.files import check_input
from camfast.images import read_image
from camfast.methods import METHODS, get_method
from camfast.metrics.evaluate import DEFAULT_METRICS, METRICS, check_metrics
from camfast.metrics.result import Scores
from camfast.models import load_model
from camfast.planner import OPTIMIZE, PRECISIONS
from camfast.progress import Progress
from camfast.trial import Trial, Trials

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""What is taken for a photo in a folder."""

EXAMPLES = """\
camfast bench                                             the speed of every method
  camfast bench --metrics                                   ... and how good its explanations are
  camfast bench --metrics deletion,road --methods gradcam,layercam --model resnet50 --images photos/
  camfast bench --metrics --json > bench.json"""

_SLOWEST = ("sscam", "iscam")
# Where the objects are is not known here.
_METRICS = [name for name in METRICS if name != "pointing"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything of ``camfast bench``."""
    parser.add_argument(
        "--images",
        metavar="PATH",
        nargs="+",
        type=Path,
        help="photos, or folders of them (default: the photo of camfast demo)",
    )
    parser.add_argument(
        "--methods",
        metavar="NAMES",
        type=_names,
        help=f"with commas between them (default: all that work on the model, but for {' and '.join(_SLOWEST)}, which "
        f"run it thousands of times): {', '.join(METHODS)}",
    )
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        type=_names,
        nargs="?",
        const=list(DEFAULT_METRICS),
        help=f"also judge the heatmaps; with commas between them: {', '.join(_METRICS)} "
        f"(default without names: {','.join(DEFAULT_METRICS)})",
    )
    parser.add_argument("--target", metavar="CLASS", help="class index or name (default: the predicted class of each)")
    model = parser.add_argument_group("model")
    add_model(model)
    add_weights(model)
    model.add_argument("--layer", metavar="NAME", action="append", help="target layer; repeat it to average several")
    model.add_argument("--optimize", choices=OPTIMIZE, default=OPTIMIZE[0], help="as camfast image (default: none)")
    model.add_argument("--precision", choices=list(PRECISIONS), help="of the copy that runs (default: the model's own)")
    model.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    run = parser.add_argument_group("run")
    run.add_argument("--batch-size", metavar="N", type=whole_number, default=8, help="images in one call (default: 8)")
    run.add_argument(
        "--seconds", metavar="S", type=positive_seconds, default=1.0, help="how long each is timed (default: 1)"
    )
    run.add_argument("--json", action="store_true", help="one JSON object on standard output")
    run.add_argument("--quiet", action="store_true", help="no progress, only the table")


def run(options: argparse.Namespace) -> int:
    """The command; returns its exit code.

    Raises:
        ValueError: an unknown method or metric.
        InputError: a photo that cannot be used, a folder without one.
    """
    names = [name for name in METHODS if name not in _SLOWEST] if options.methods is None else options.methods
    methods = {name.lower(): get_method(name) for name in names}
    metrics = [] if options.metrics is None else check_metrics(options.metrics)
    if "pointing" in metrics:
        raise ValueError("metric 'pointing' needs boxes of the objects; see camfast.metrics.pointing_game")
    photos = [read_image(path) for path in _photos(options.images or [demo.photo_path()])]
    keep_memory()  # the process is ours, and runs the model again and again
    model = load_model(options.model, options.weights, options.device)
    target = None if options.target is None else model.class_index(options.target)
    settings = {"target_layers": options.layer, "precision": options.precision}
    settings["optimize"] = None if options.optimize == OPTIMIZE[0] else options.optimize
    trials = Trials(model, photos, target, settings, metrics, options.batch_size, options.seconds)

    done: dict[str, Trial] = {}
    if not options.json:
        print(trials)
    with Progress("bench", len(methods), "methods", quiet=options.quiet or options.json) as progress:
        for name, method in methods.items():
            done[name] = trials.of(method)
            if not options.json and done[name].reason is None:
                if sum(trial.reason is None for trial in done.values()) == 1:
                    print(_header(list(methods), done[name].scores))
                print(_row(list(methods), name, done[name]), flush=True)
            progress.advance(1)
    if options.json:
        print(json.dumps({**trials.as_dict(), "methods": {name: trial.as_dict() for name, trial in done.items()}}))
    else:
        _say_inapplicable(done)
    if all(trial.reason is not None for trial in done.values()):
        return fail(f"none of the methods works on {model.name}", FAILURE)
    return SUCCESS


def _header(methods: Sequence[str], scores: dict[str, Scores]) -> str:
    width = max(map(len, methods))
    first = [f"{'method':<{width}}", f"{'images/s':>9}", f"{'ms/image':>9}"]
    second = [" " * width, " " * 9, " " * 9]
    for name, score in scores.items():
        columns = max(len(name), 8)
        first.append(f"{name:>{columns}}")
        second.append(f"{score.better:>{columns}}")
    return " ".join(first) + ("\n" + " ".join(second) if scores else "")


def _row(methods: Sequence[str], name: str, trial: Trial) -> str:
    columns = [f"{name:<{max(map(len, methods))}}", f"{trial.rate:9.2f}", f"{1000 / trial.rate:9.2f}"]
    columns += [f"{score.mean:{max(len(metric), 8)}.4f}" for metric, score in trial.scores.items()]
    return " ".join(columns)


def _say_inapplicable(done: dict[str, Trial]) -> None:
    reasons = {name: trial.reason for name, trial in done.items() if trial.reason is not None}
    if reasons:
        print("not applicable:")
        for name, reason in reasons.items():
            print(f"  {name}: {reason}")


def _photos(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            check_input(path)
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not inside:
            raise InputError(f"folder {path} has no photo ({', '.join(SUFFIXES)})")
        found += inside
    return found


def _names(text: str) -> list[str]:
    names: list[Any] = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("no name is given")
    return names
