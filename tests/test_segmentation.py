"""Segmentation models, with random weights: a class within a mask is explained."""

import pytest
import torch
import torchvision
from fingerprint import assert_same, fingerprint
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam.utils import model_targets as peer
from torch import nn

import camfast
from camfast.dense_scores import SegmentationTarget


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("deeplabv3_mobilenet_v3_large", "backbone.16"),
        ("lraspp_mobilenet_v3_large", "backbone.16"),
        ("fcn_resnet50", "backbone.layer4"),
    ],
)
def test_families(name, layer):
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4).eval()
    before = fingerprint(model)
    x, mask = torch.rand(2, 3, 64, 96), torch.zeros(64, 96)
    mask[8:40, 16:60] = 1
    cam = camfast.GradCAM(model, output="out")
    explained = [cam.explain(x, SegmentationTarget(category, mask)) for category in (0, 1)]
    assert cam.target_layers == [layer]
    assert all(e.heatmaps.shape == (2, 64, 96) and e.heatmaps.isfinite().all() for e in explained)
    assert max(e.heatmaps.amax() for e in explained) == 1
    assert explained[0].logits.shape == (2, 4, 64, 96)
    assert_same(before, fingerprint(model))


def test_as_pytorch_grad_cam():
    build = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    model = build(weights=None, weights_backbone=None, num_classes=4).eval()
    x, mask = torch.rand(1, 3, 64, 96), torch.zeros(64, 96)
    mask[8:40, 16:60] = 1

    class Out(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x)["out"]

    for category in range(4):
        with PeerGradCAM(Out(), [model.backbone["16"]]) as them:
            expected = torch.from_numpy(them(x, [peer.SemanticSegmentationTarget(category, mask.numpy())]))
        got = camfast.GradCAM(model, output="out")(x, SegmentationTarget(category, mask))
        assert (got - expected).abs().max() <= 1e-4
