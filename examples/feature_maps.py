"""What every convolution of AlexNet makes of a photo: a grid of its channels, and all of them in TensorBoard.

Also why a plain forward hook shows the wrong values before an in-place ReLU, and what camfast.capture shows there.

    python examples/feature_maps.py -o out/feature_maps
    tensorboard --logdir out/feature_maps/tensorboard
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import camfast
from camfast import demo
from camfast.errors import CamfastError, ModelError
from camfast.images import read_image


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("out/feature_maps"))
    parser.add_argument("--photo", metavar="FILE", type=Path, help="default: the cat of camfast demo")
    parser.add_argument("--quick", action="store_true", help="16 channels of every layer, not all")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    photo = read_image(options.photo or demo.photo_path())
    channels = 16 if options.quick else None

    try:
        loaded = camfast.load_model("alexnet")
    except ModelError as error:
        print(f"AlexNet with random weights, as those of ImageNet cannot be had here ({error})")
        loaded = camfast.load_model("alexnet", "random")
    model = loaded.module
    x = loaded.preprocess(torch.from_numpy(photo)[None])

    convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    with camfast.capture(model, convolutions) as seen:
        logits = model(x)
        logits[0, logits.argmax()].backward()
    print(seen)
    for name, activations in seen.activations.items():
        file = options.output / f"{name}.png"
        title = f"AlexNet ({loaded.weights} weights), {name}: {activations.shape[1]} channels"
        camfast.plots.feature_grid(activations, title, channels=channels).savefig(file)
        print(f"  {file}")
    camfast.plots.filters(model.features[0], "the first filters of AlexNet").savefig(options.output / "filters.png")
    camfast.plots.histogram(seen, "activations and gradients").savefig(options.output / "histogram.png")

    in_place_relu(model, x, seen, options.output / "in_place_relu.png")
    to_tensorboard(seen, options.output / "tensorboard")

    lite = camfast.load_model()  # real weights, from a package
    montage = camfast.plots.layer_montage(lite, photo, "EfficientNet-Lite0: first, middle and last convolution")
    montage.savefig(options.output / "efficientnet_lite0.png")
    print(f"EfficientNet-Lite0 with ImageNet weights: {options.output / 'efficientnet_lite0.png'}")


def in_place_relu(model: torch.nn.Module, x: torch.Tensor, seen: camfast.hooks.Capture, file: Path) -> None:
    """A plain hook keeps the tensor that the convolution put out, and ReLU(inplace=True) then changes that tensor."""
    kept = {}
    handle = model.features[0].register_forward_hook(lambda module, args, output: kept.update(output=output))
    try:
        with torch.no_grad():
            model(x)
    finally:
        handle.remove()
    naive, captured = kept["output"], seen.activations["features.0"]
    print("features.0 is followed by ReLU(inplace=True):")
    print(
        f"  kept by a plain hook: minimum {naive.min():.3f}, {(naive < 0).float().mean():.0%} negative, which is wrong"
    )
    print(f"  camfast.capture:      minimum {captured.min():.3f}, {(captured < 0).float().mean():.0%} negative")
    both = {"kept by a plain hook": naive, "camfast.capture": captured}
    camfast.plots.histogram(both, "features.0, before an in-place ReLU").savefig(file)
    print(f"  {file}")


def to_tensorboard(seen: camfast.hooks.Capture, folder: Path) -> None:
    try:
        writer = camfast.plots.tensorboard_writer(folder)
    except CamfastError as error:
        print(f"nothing for TensorBoard: {error}")
        return
    with writer:
        tags = camfast.plots.log_feature_maps(writer, seen, step=0, most=16)
    print(f"TensorBoard: {len(tags)} pictures and as many histograms; tensorboard --logdir {folder}")


if __name__ == "__main__":
    main()
