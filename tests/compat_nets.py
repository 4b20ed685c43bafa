"""Models, layers and inputs on which the drop-in for pytorch-grad-cam is compared with pytorch-grad-cam."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet18, vgg11


@dataclass(frozen=True)
class Subject:
    model: nn.Module
    layers: list[nn.Module]
    x: torch.Tensor
    reshape: Any = None


def subjects(lite0, vit):
    """By name; two layers each, in the order in which they run, none of them so small that the sign of a principal component is a tie."""
    torch.manual_seed(1)
    resnet, vgg, lite = resnet18(num_classes=10).eval(), vgg11(num_classes=10).eval(), lite0.module
    # The same at a hundredth of the weights, which are most of the time that it takes.
    vgg.classifier = nn.Sequential(nn.Linear(25088, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10)).eval()
    noise = torch.randn(2, 3, 64, 80)
    return {
        "lite0": Subject(lite, [lite._blocks[10], lite._conv_head], noise),
        "resnet18": Subject(resnet, [resnet.layer2, resnet.layer3], noise[..., :32, :40]),
        "vgg11": Subject(vgg, [vgg.features[10], vgg.features[14]], noise[..., :32, :40]),
        "vit": Subject(vit, [vit.blocks[0].norm1, vit.blocks[1].norm1], noise[..., :32, :48], tokens_to_maps),
    }


def tokens_to_maps(tokens):
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 4, 6)


def tiny_vit(timm):
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, depth=3, num_classes=10, img_size=(32, 48), patch_size=8
    )
    with torch.no_grad():  # as wide awake as a trained one
        vit.head.weight.mul_(1e4)
    return vit.eval()
