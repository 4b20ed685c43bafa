"""CAM and Grad-CAM written out, and why they agree on a network that ends in global average pooling.

With class weights w, activations A [C, h, w] and pooling by the mean, the logit is the sum over c of w_c · mean(A_c).
So its gradient with respect to A_c is w_c / (h · w) at every position, and Grad-CAM's weight, the mean of that
gradient, is CAM's weight over h · w. The maps are the same but for this factor, which normalization takes away.

    python examples/cam_by_hand.py -o out/cam_by_hand

Papers: Zhou et al. 2016, Learning Deep Features for Discriminative Localization; Selvaraju et al. 2017, Grad-CAM.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import camfast
from camfast import demo
from camfast.images import read_image


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("out/cam_by_hand"))
    parser.add_argument("--photo", metavar="FILE", type=Path, help="default: the cat of camfast demo")
    parser.add_argument("--quick", action="store_true", help="the best class alone, not the best three")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    photo = read_image(options.photo or demo.photo_path())

    loaded = camfast.load_model()  # EfficientNet-Lite0: the last map, its mean, one linear layer
    model = loaded.module
    x = loaded.preprocess(torch.from_numpy(photo)[None])
    region = loaded.preprocess.seen(*photo.shape[:2])
    engines = {"CAM": camfast.CAM(model), "Grad-CAM": camfast.GradCAM(model)}
    best = engines["Grad-CAM"].explain(x).logits[0].topk(1 if options.quick else 3).indices.tolist()
    layer = engines["Grad-CAM"].target_layers[0]

    for target in best:
        with camfast.capture(model, layer) as seen:
            model(x)[0, target].backward()
        model.zero_grad()
        last = list(seen.activations)[-1]  # a module that runs several times is explained at its last run
        activations, gradients = seen.activations[last][0], seen.gradients[last][0]
        positions = activations[0].numel()

        cam_weights = model._fc.weight[target].detach()
        gradient_weights = gradients.mean(dim=(1, 2))
        factor = cam_weights.dot(gradient_weights) / gradient_weights.dot(gradient_weights)
        off = (cam_weights - positions * gradient_weights).abs().max() / cam_weights.abs().max()
        print(f"{loaded.class_name(target)}: layer {layer} {list(activations.shape)}")
        print(f"  weights of CAM over those of Grad-CAM: {factor:.4f}; h · w is {positions}; off by {off:.1e} at most")

        by_hand = {"CAM": heatmap(activations, cam_weights), "Grad-CAM": heatmap(activations, gradient_weights)}
        print(f"  heatmaps by hand differ by {(by_hand['CAM'] - by_hand['Grad-CAM']).abs().max():.1e} at most")
        shown = {}
        for name, engine in engines.items():
            ready_made = engine(x, target)[0]
            print(f"  camfast.{type(engine).__name__} differs from {name} by hand by", end=" ")
            print(f"{(enlarged(by_hand[name], x) - ready_made).abs().max():.1e} at most")
            shown[f"{name} by hand, {list(by_hand[name].shape)}"] = by_hand[name]
            shown[f"camfast.{type(engine).__name__}"] = ready_made
        file = options.output / f"{loaded.class_name(target).replace(' ', '_')}.png"
        camfast.plots.compare(photo, shown, loaded.class_name(target), region=region).savefig(file)
        print(f"  {file}")


def heatmap(activations: Tensor, weights: Tensor) -> Tensor:
    """[h, w] in [0, 1]: the weighted sum of the channels, what speaks for the class."""
    return normalized((weights[:, None, None] * activations).sum(dim=0).relu())


def enlarged(map: Tensor, x: Tensor) -> Tensor:
    """At the size of the images; the least and the largest value are those of the enlarged map."""
    return normalized(torch.nn.functional.interpolate(map[None, None], x.shape[2:], mode="bilinear")[0, 0])


def normalized(map: Tensor) -> Tensor:
    return (map - map.min()) / (map.max() - map.min())


if __name__ == "__main__":
    main()
