"""The arguments of ``camfast features``, and the files that it writes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from matplotlib.figure import Figure

from camfast.arguments import add_model, add_weights, path, whole_number
from camfast.colors import check_colormap
from camfast.exits import SUCCESS
from camfast.feature_maps import feature_maps
from camfast.files import check_input, check_output, make_folder, whole_file
from camfast.images import read_image
from camfast.models import load_model
from camfast.plots.layers import NORMALIZE, feature_grid, montage
from camfast.preprocess import FITS
from camfast.progress import Progress

EXAMPLES = """\
camfast features cat.jpg -o features                        every convolution of the default model
  camfast features cat.jpg -o features --model alexnet --layers 'features.*'
  camfast features cat.jpg -o features --model resnet50 --layers conv1 'layer?' --channels 64
  camfast features cat.jpg -o features --layers _conv_head --normalize layer --colormap magma"""

_MONTAGE = "montage.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything of ``camfast features``."""
    parser.add_argument("photo", metavar="PHOTO", type=Path, help="a photo of any kind that Pillow reads")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=path,
        required=True,
        help=f"folder for LAYER.png of each layer, and {_MONTAGE} of the first, the middle and the last",
    )
    model = parser.add_argument_group("model")
    add_model(model)
    add_weights(model)
    model.add_argument(
        "--layers",
        metavar="NAME",
        nargs="+",
        help="names of layers (see camfast layers), or patterns in quotes such as 'features.*' (default: every "
        "convolution)",
    )
    model.add_argument("--fit", choices=FITS, default=FITS[0], help="what the model sees, as camfast image")
    model.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    drawn = parser.add_argument_group("picture")
    drawn.add_argument("--channels", metavar="N", type=whole_number, help="the first N of a layer (default: all)")
    drawn.add_argument(
        "--normalize",
        choices=NORMALIZE,
        default=NORMALIZE[0],
        help="each channel from its own minimum to maximum, or all of a layer by one scale (default: channel)",
    )
    drawn.add_argument("--colormap", metavar="NAME", default="viridis", help="any of matplotlib's (default: viridis)")
    drawn.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    drawn.add_argument("--quiet", action="store_true", help="no progress and no summary, only errors")


def run(options: argparse.Namespace) -> int:
    """The command; returns its exit code.

    Raises:
        InputError: a photo that cannot be used.
        OutputError: an output that exists, or cannot be written.
        ModelError, ValueError: an unknown model, colour map or layer; layers without feature maps.
    """
    check_input(options.photo)
    check_colormap(options.colormap)
    photo = read_image(options.photo)
    make_folder(options.output)
    model = load_model(options.model, options.weights, options.device).with_fit(options.fit)
    x = model.preprocess(torch.from_numpy(photo).to(model.device)[None])
    layers, without = feature_maps(model.module, x, options.layers)
    outputs = [options.output / f"{layer.layer.replace(os.sep, '_')}.png" for layer in layers]
    for output in [*outputs, options.output / _MONTAGE]:
        check_output(output, options.overwrite)

    how = {"normalize": options.normalize, "colormap": options.colormap}
    with Progress("features", len(layers) + 1, "pictures", quiet=options.quiet) as progress:
        for layer, output in zip(layers, outputs, strict=True):
            _write(feature_grid(layer.maps, str(layer), channels=options.channels, **how), output, options.overwrite)
            progress.advance(1)
        three = montage(layers, f"{model.name}: {options.photo.name}", **how)
        _write(three, options.output / _MONTAGE, options.overwrite)
        progress.advance(1)
    if not options.quiet:
        left_out = f"; {_layers(len(without))} put out no map" if without else ""
        said = f"{_layers(len(layers))} of {model.name}, weights: {model.weights}, and {_MONTAGE}{left_out}"
        print(f"{options.output}: {said}")
    return SUCCESS


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _write(figure: Figure, output: Path, overwrite: bool) -> None:
    with whole_file(output, overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
