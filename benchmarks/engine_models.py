"""The models whose explanations are timed, each with its target layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

import camfast
from camfast.demo import packaged
from camfast.images import read_image
from camfast.preprocess import Preprocessing

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Those that scikit-image ships inside its wheel, the ones in color first.
PHOTOS = (
    "chelsea.png",
    "astronaut.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "camera.png",
    "coins.png",
    "moon.png",
    "brick.png",
    "grass.png",
    "gravel.png",
)
BRANCH_SCALE = 0.2
# Every contender gets the same layer. lite0's last activation runs after every block, which not every peer can tell
# apart, so its layer is the last convolution.
LAYERS = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "mobilenet_v3_large": "features",
    "efficientnet_lite0": "_conv_head",
    "vgg16": "features",
    "convnext_tiny": "features",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
}


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode, and how it is explained."""

    name: str
    weights: str
    module: nn.Module
    layer: str
    reshape: Callable[[Tensor], Tensor] | None


def build(name: str, device: torch.device) -> Subject:
    """A model with real weights where a package ships them, and with reproducible random ones otherwise."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        return Subject(name, "DEFAULT", camfast.load_model(name, device=device).module, LAYERS[name], None)
    module = torchvision.models.get_model(name, weights=None)
    if name == "vit_b_16":
        nn.init.normal_(module.heads.head.weight)  # zero as built, and so would be every gradient
    _shrink_branches(module)
    module.to(device)
    _settle_statistics(module, images(8, device))
    reshape = tokens_as_map if name == "vit_b_16" else None
    return Subject(name, "random", module.eval(), LAYERS[name], reshape)


def images(count: int, device: torch.device) -> Tensor:
    """Photos as models take them, the same every time; again and again where there are too few."""
    prepare = Preprocessing(SIZE, SIZE, MEAN, STD)
    chosen = itertools.islice(itertools.cycle(PHOTOS), count)
    read = (torch.from_numpy(read_image(packaged("skimage", "data", name)))[None] for name in chosen)
    return torch.cat([prepare(photo) for photo in read]).to(device)


def tokens_as_map(tokens: Tensor) -> Tensor:
    """The patches of a ViT [N, 1 + 196, C] as [N, C, 14, 14]."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))


def _shrink_branches(module: nn.Module) -> None:
    """Ends every branch of a ResNet small, as training does: random ones as built multiply rounding by thousands."""
    for block in module.modules():
        if isinstance(block, BasicBlock):
            nn.init.constant_(block.bn2.weight, BRANCH_SCALE)
        elif isinstance(block, Bottleneck):
            nn.init.constant_(block.bn3.weight, BRANCH_SCALE)


def _settle_statistics(module: nn.Module, x: Tensor) -> None:
    """Gives every BatchNorm the statistics of two batches: with those it is built with, activations grow or vanish."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        norm.reset_running_stats()
    module.train()
    with torch.no_grad():
        for batch in (x, x.flip(3)):
            module(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
