"""The arguments of ``camfast export``. What it writes is made by :mod:`camfast.export`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from camfast.arguments import add_weights, fraction, path
from camfast.errors import OutputError
from camfast.exits import SUCCESS
from camfast.export import to_pt2, to_torchscript
from camfast.export.material import EXPORTABLE, OPTIMIZE
from camfast.files import check_output, whole_file
from camfast.models import BUILT_IN, LoadedModel, load_model
from camfast.preprocess import FITS
from camfast.quiet import without_notices

FORMATS = {"torchscript": ".pt", "pt2": ".pt2"}
"""Formats, and how their files' names end."""

EXAMPLES = """\
camfast export -o explainer.pt                            the default model, as TorchScript
  camfast export resnet50 -o explainer.pt --optimize inference
  camfast export resnet18 -o explainer.pt --weights mine.pth --layer layer3 --method layercam
  camfast export resnet50 -o explainer.pt2 --format pt2     compiled ahead of time
  camfast-run explainer.pt photo.jpg out.png                what to do with it, without Python (make runner)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything of ``camfast export``."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=BUILT_IN,
        help=f"{BUILT_IN}, any torchvision classification model, or timm:NAME (default: {BUILT_IN})",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=path, required=True, help="explainer.pt, or explainer.pt2 with pt2"
    )
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        default="torchscript",
        help="torchscript: any model that can be scripted or traced; takes frames, and draws overlays. pt2: compiled "
        "for this kind of processor, where pooling follows the layer; takes images that are ready for the model "
        "(default: torchscript)",
    )
    parser.add_argument("--images", action="store_true", help="take images that are ready for the model, not frames")
    model = parser.add_argument_group("model")
    add_weights(model)
    model.add_argument("--layer", metavar="NAME", help="target layer (default: it is found; see camfast layers)")
    model.add_argument("--method", choices=EXPORTABLE, default=EXPORTABLE[0], help="default: gradcam")
    model.add_argument(
        "--optimize",
        choices=OPTIMIZE,
        default=OPTIMIZE[0],
        help="inference: fold BatchNorm, and pack weights when the file is loaded (default: none)",
    )
    model.add_argument("--device", default="cpu", help="where it will run: cpu, cuda, ... (default: cpu)")
    drawing = parser.add_argument_group("frames")
    drawing.add_argument("--fit", choices=FITS, default=FITS[0], help="what the model sees, as camfast image")
    drawing.add_argument("--colormap", metavar="NAME", default="jet", help="any matplotlib colour map (default: jet)")
    drawing.add_argument("--alpha", type=fraction, default=0.4, help="opacity of the heat, 0 to 1 (default: 0.4)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--quiet", action="store_true", help="no summary, only errors")


def run(options: argparse.Namespace) -> int:
    """``camfast export``: its exit code."""
    output, suffix = options.output, FORMATS[options.format]
    if output.suffix != suffix:
        raise OutputError(f"{output}: the name of a file of --format {options.format} ends in {suffix}")
    check_output(output, options.overwrite)
    model = load_model(options.model, options.weights, options.device).with_fit(options.fit)
    if options.format == "pt2":
        to_pt2(
            model,
            output,
            options.layer,
            method=options.method,
            optimize=options.optimize,
            overwrite=options.overwrite,
        )
    else:
        _save(_script(model, options), output, options.overwrite)
    if not options.quiet:
        takes = "images" if options.images or options.format == "pt2" else "frames"
        print(f"{output}: {options.method} of {model.name}, takes {takes}, {output.stat().st_size / 1e6:.1f} MB")
    return SUCCESS


def _script(model: LoadedModel, options: argparse.Namespace) -> torch.jit.ScriptModule:
    return to_torchscript(
        model,
        options.layer,
        method=options.method,
        overlay=not options.images,
        optimize=options.optimize,
        alpha=options.alpha,
        colormap=options.colormap,
    )


def _save(explainer: torch.jit.ScriptModule, output: Path, overwrite: bool) -> None:
    with whole_file(output, overwrite) as temporary, without_notices():
        torch.jit.save(explainer, temporary)
