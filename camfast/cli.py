"""The command line: arguments only. What the commands do is in the files they call."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from camfast import __version__, cli_bench, cli_export, cli_features, cli_video, demo
from camfast.allocator import keep_memory
from camfast.arguments import add_model, add_weights, fraction, path, whole_number
from camfast.cli_method import make_explainer
from camfast.colors import check_colormap
from camfast.environment import report
from camfast.errors import CamfastError
from camfast.exits import FAILURE, INTERRUPTED, SUCCESS, TERMINATED, fail
from camfast.explainer import Explainer
from camfast.files import make_folder
from camfast.layer_table import layer_table
from camfast.methods import METHODS, get_method
from camfast.models import LoadedModel, load_model
from camfast.photos import LAYOUTS, explain_photos, output_names
from camfast.planner import OPTIMIZE, PRECISIONS
from camfast.preprocess import FITS
from camfast.progress import Progress

_EXAMPLES = """\
examples:
  camfast demo                                             a photo and a video, explained, into out/demo
  camfast image cat.jpg dog.jpg -o explained               what the default model looked at
  camfast image cat.jpg -o explained --target "tabby"      what speaks for one class
  camfast video in.mp4 -o out.mp4 --model resnet50         the overlay of every frame
  camfast layers resnet50                                  layers that can be explained
  camfast features cat.jpg -o features                     what every convolution makes of a photo
  camfast export resnet50 -o explainer.pt                  an explainer that runs without Python
  camfast bench --metrics                                  which method is the fastest, and which the best
  camfast env                                              versions, what was built, what is usable
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    with _terminable():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    """The command's exit code; every expected error is one line on standard error."""
    try:
        code: int = options.run(options)
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except Terminated:
        return fail("terminated", TERMINATED)
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except (CamfastError, ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        return fail(_one_line(error))


class Terminated(BaseException):
    """SIGTERM, on its way to the blocks that clean up."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises Terminated for the length of a block; only the main thread of Python may ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(
        prog="camfast",
        description="Class activation maps: what an image model looked at, in photos and in every frame of a video.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"camfast {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    image = _command(
        commands,
        "image",
        "explain photos",
        "camfast image cat.jpg -o explained\n"
        '  camfast image *.jpg -o explained --model resnet50 --target "golden retriever"\n'
        "  camfast image scan.png -o explained --model resnet18 --weights mine.pth --layer layer3",
    )
    image.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="photos of any kind that Pillow reads")
    image.add_argument(
        "-o", "--output", metavar="DIR", type=path, required=True, help="folder for NAME.png of each photo"
    )
    image.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="panels: image, heatmap and overlay side by side; the others at the photo's size (default: panels)",
    )
    _add_model_options(image)
    _add_explanation_options(image)
    image.set_defaults(run=_image)

    video = _command(commands, "video", "explain every frame of a video", cli_video.EXAMPLES)
    cli_video.add_arguments(video)
    _add_model_options(video)
    _add_explanation_options(video)
    video.set_defaults(run=_video)

    layers = _command(
        commands,
        "layers",
        "list the layers that can be explained",
        "camfast layers resnet50\n  camfast layers timm:convnext_tiny --all",
    )
    layers.add_argument("model", metavar="MODEL", help="efficientnet_lite0, a torchvision model, or timm:NAME")
    layers.add_argument("--all", action="store_true", help="also layers without a feature map")
    layers.set_defaults(run=_layers)

    features = _command(commands, "features", "draw what layers make of a photo", cli_features.EXAMPLES)
    cli_features.add_arguments(features)
    features.set_defaults(run=cli_features.run)

    bench = _command(commands, "bench", "compare methods: speed, and how good they are", cli_bench.EXAMPLES)
    cli_bench.add_arguments(bench)
    bench.set_defaults(run=cli_bench.run)

    export = _command(commands, "export", "write an explainer that runs without Python", cli_export.EXAMPLES)
    cli_export.add_arguments(export)
    export.set_defaults(run=cli_export.run)

    demo = _command(commands, "demo", "explain a photo and a video that come with the demo packages", "camfast demo")
    demo.add_argument("-o", "--output", metavar="DIR", type=path, default=Path("out/demo"), help="default: out/demo")
    demo.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    demo.add_argument("--quiet", action="store_true", help="no progress bar")
    demo.set_defaults(run=_demo)

    env = _command(commands, "env", "versions, what was built, what is usable and why not", "camfast env")
    env.set_defaults(run=_env)
    return parser


def _command(commands: argparse._SubParsersAction, name: str, summary: str, examples: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add_model(group)
    add_weights(group)
    group.add_argument(
        "--layer",
        metavar="NAME",
        action="append",
        help="target layer (see camfast layers); repeat it to average several: --layer layer3 --layer layer4",
    )
    group.add_argument("--method", default="gradcam", help=f"one of {', '.join(METHODS)} (default: gradcam)")
    group.add_argument(
        "--optimize",
        choices=OPTIMIZE,
        default=OPTIMIZE[0],
        help="none: the model as it is; inference: a copy with folded BatchNorm and packed weights; compile: by "
        "torch.compile, which takes up to minutes first (default: none)",
    )
    group.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        help="of the copy that runs; int8 needs a CPU with AVX-512 VNNI, and is mostly the fastest "
        "there (default: that of the model, fp32)",
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    group.add_argument(
        "--batch-size", metavar="N", type=whole_number, default=8, help="frames in one pass (default: 8)"
    )


def _add_explanation_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("explanation")
    group.add_argument(
        "--target",
        metavar="CLASS",
        help="class index or name; for a video also first, or clip: the class predicted for the first frame, or for "
        "the whole clip, which is then read twice (default: the predicted class of each)",
    )
    group.add_argument(
        "--fit",
        choices=FITS,
        default=FITS[0],
        help="what the model sees: the centre crop of its own preprocessing, or all of it, made square or with bars "
        "(default: crop)",
    )
    group.add_argument("--colormap", metavar="NAME", default="jet", help="any matplotlib colour map (default: jet)")
    group.add_argument("--alpha", type=fraction, default=0.4, help="opacity of the heat, 0 to 1 (default: 0.4)")
    group.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    group.add_argument("--quiet", action="store_true", help="no progress and no summary, only errors")


def _image(options: argparse.Namespace) -> int:
    outputs = output_names(options.paths, options.output)
    make_folder(options.output)
    model, cam = _load(options)
    target = None if options.target is None else model.class_index(options.target)
    failures = 0
    with Progress("image", len(outputs), "photos", quiet=options.quiet or len(outputs) < 2) as progress:
        for result in explain_photos(
            options.paths,
            outputs,
            model,
            cam,
            target=target,
            batch_size=options.batch_size,
            layout=options.layout,
            alpha=options.alpha,
            colormap=options.colormap,
            overwrite=options.overwrite,
        ):
            if result.error is not None:
                failures += 1
                fail(_one_line(result.error))
            elif not options.quiet:
                print(result)
            progress.advance(1)
    return FAILURE if failures else SUCCESS


def _video(options: argparse.Namespace) -> int:
    pairs = cli_video.check(options)
    model, cam = _load(options)
    return cli_video.run(options, pairs, model, cam, cli_video.target_of(options.target, model))


def _layers(options: argparse.Namespace) -> int:
    print(layer_table(options.model, everything=options.all))
    return SUCCESS


def _demo(options: argparse.Namespace) -> int:
    demo.run(options.output, options.device, quiet=options.quiet)
    return SUCCESS


def _env(options: argparse.Namespace) -> int:
    print(report())
    return SUCCESS


def _load(options: argparse.Namespace) -> tuple[LoadedModel, Explainer]:
    """The model and the engine on it, from the options that the commands share."""
    get_method(options.method)  # an unknown one is said before a model is loaded
    check_colormap(options.colormap)
    keep_memory()  # the process is ours, and runs the model again and again
    model = load_model(options.model, options.weights, options.device).with_fit(options.fit)
    return model, make_explainer(options, model.module)


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].replace("target_layers", "--layer") if lines else type(error).__name__
