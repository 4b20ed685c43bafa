"""One member of every family of classifiers, with random weights: the layer is found, read as a map and explained."""

import re

import pytest
import timm
import torch
import torchvision
from fingerprint import assert_same, fingerprint
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam.utils import model_targets as peer
from torch import nn

import camfast
from camfast.layer_table import layer_table
from camfast.scores import ContrastTarget, ReSTTarget, SoftmaxTarget

TORCHVISION = [
    ("alexnet", (96, 128), {}, "features"),
    ("convnext_tiny", (64, 96), {}, "features"),
    ("densenet121", (64, 96), {}, "features"),
    ("efficientnet_b0", (64, 96), {}, "features"),
    ("googlenet", (64, 96), {"init_weights": False}, "inception5b"),
    ("inception_v3", (80, 112), {"init_weights": False}, "Mixed_7c"),
    ("maxvit_t", (224, 224), {}, "blocks.3"),
    ("mnasnet0_5", (64, 96), {}, "layers"),
    ("mobilenet_v2", (64, 96), {}, "features"),
    ("mobilenet_v3_small", (64, 96), {}, "features"),
    ("regnet_y_400mf", (64, 96), {}, "trunk_output"),
    ("resnet18", (64, 96), {}, "layer4"),
    ("shufflenet_v2_x0_5", (64, 96), {}, "conv5"),
    ("squeezenet1_1", (64, 96), {}, "classifier.2"),
    ("swin_t", (64, 96), {}, "permute"),
    ("swin_v2_t", (64, 96), {}, "permute"),
    ("vgg11", (64, 96), {"init_weights": False}, "features"),
    ("vit_b_32", (96, 96), {"image_size": 96}, "encoder.layers.encoder_layer_11.ln_1"),
]
TIMM = [
    ("vit_tiny_patch16_224", (64, 96), {"img_size": (64, 96)}, "blocks.11.norm1"),
    ("vit_tiny_patch16_224", (48, 80), {"dynamic_img_size": True}, "blocks.11.norm1"),
    ("vit_small_patch14_reg4_dinov2", (70, 56), {"img_size": (70, 56), "num_classes": 9}, "blocks.11.norm1"),
    ("deit_tiny_patch16_224", (64, 64), {"img_size": 64}, "blocks.11.norm1"),
    ("deit_tiny_distilled_patch16_224", (64, 64), {"img_size": 64}, "blocks.11.norm1"),
    ("cait_xxs24_224", (64, 64), {"img_size": 64}, "blocks_token_only.1.norm1"),
    ("swin_tiny_patch4_window7_224", (128, 64), {"img_size": (128, 64)}, "norm"),
    ("convnext_atto", (64, 96), {}, "stages"),
    ("maxvit_pico_rw_256", (128, 128), {"img_size": 128}, "norm"),
    ("mixer_s32_224", (64, 64), {"img_size": 64}, "norm"),
    ("resnet50_clip.openai", (64, 64), {"img_size": 64, "num_classes": 9}, "stages"),
]


def trained_a_little(model):
    """With a head that is not zero, as some are at the start."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model


def check(model, layer, size, **options):
    """All of three classes have maps of the right form, and some of them are not empty."""
    x = torch.rand(2, 3, *size)
    before = fingerprint(model)
    cam = camfast.GradCAM(model, **options)
    explained = cam.explain(x, camfast.TopK(3))
    assert cam.target_layers == [layer]
    assert explained.heatmaps.shape == (2, 3, *size)
    assert explained.heatmaps.isfinite().all()
    assert explained.ranges.isfinite().all()
    assert explained.heatmaps.amax() == 1
    one = cam.explain(x[1:], explained.targets[1:, 0])
    torch.testing.assert_close(one.ranges, explained.ranges[1:, 0], rtol=2e-2, atol=1e-6)
    assert_same(before, fingerprint(model))


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(("name", "size", "options", "layer"), TORCHVISION)
def test_torchvision(name, size, options, layer):
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    check(trained_a_little(model), layer, size)


@pytest.mark.parametrize(("name", "size", "options", "layer"), TIMM)
def test_timm(name, size, options, layer):
    check(trained_a_little(timm.create_model(name, pretrained=False, **options).eval()), layer, size)


TARGETS = [
    (int, peer.ClassifierOutputTarget),
    (SoftmaxTarget, peer.ClassifierOutputSoftmaxTarget),
    (ReSTTarget, peer.ClassifierOutputReST),
    (
        lambda category: ContrastTarget(category, [1, 2], 0.7, "probability"),
        lambda category: peer.FinerWeightedTarget(category, [1, 2], 0.7),
    ),
]


@pytest.mark.parametrize(
    ("name", "options", "layer", "transform"),
    [
        (
            "vit_tiny_patch16_224",
            {"img_size": (64, 96)},
            "blocks.11.norm1",
            lambda t: t[:, 1:].transpose(1, 2).unflatten(2, (4, 6)),
        ),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": (64, 96)},
            "layers.3.blocks.1.norm1",
            lambda t: t.permute(0, 3, 1, 2),
        ),
    ],
)
def test_transformers_as_pytorch_grad_cam_with_each_of_its_targets(name, options, layer, transform):
    model = timm.create_model(name, pretrained=False, num_classes=7, **options).eval()
    for module in model.modules():  # so that classes are told apart: logits of an untrained model hardly differ
        if isinstance(module, nn.Linear) and module.out_features == 7:
            nn.init.normal_(module.weight, std=0.2)
    x = torch.rand(2, 3, 64, 96)
    cam = camfast.GradCAM(model, layer)
    for make, theirs in TARGETS:
        largest = 0
        for category in (0, 3):
            with PeerGradCAM(model, [model.get_submodule(layer)], reshape_transform=transform) as them:
                expected = torch.from_numpy(them(x.clone(), [theirs(category)] * 2))
            highest = expected.amax((1, 2), keepdim=True)  # less than 1, as 1e-7 is added to what it is divided by
            expected = expected / highest.where(highest > 0, 1)
            assert (cam(x, make(category)) - expected).abs().max() <= 1e-4
            largest = max(largest, float(highest.amax()))
        assert largest > 0.9


@pytest.mark.parametrize(
    ("name", "found", "other"),
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "backbone.body.16", r"backbone\.body\.0 .*\[1, 16, "),
        ("deeplabv3_mobilenet_v3_large", "backbone.16", r"classifier .*\[1, 21, 14, 14\]"),
        ("swin_t", "permute", r"features\.7 .*\[1, 7, 7, 768\] +7 × 7, channels last"),
        (
            "timm:deit_tiny_distilled_patch16_224",
            "blocks.11.norm1",
            r"blocks\.3 .*\[1, 198, 192\] +tokens: 14 × 14 after 2",
        ),
    ],
)
def test_the_table_of_layers(name, found, other):
    lines = layer_table(name).splitlines()
    assert sum(line.startswith(f"> {found} ") for line in lines) == 1
    assert any(re.match(rf"  {other}", line) for line in lines)
