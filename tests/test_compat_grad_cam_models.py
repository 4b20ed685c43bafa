"""Models whose output is no tensor of logits, through the drop-in for pytorch-grad-cam."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn

import camfast.compat.pytorch_grad_cam as ours
from camfast.compat.pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget, SemanticSegmentationTarget
from camfast.compat.pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform

theirs = pytest.importorskip("pytorch_grad_cam")


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        maps = self.conv(x).relu()
        return self.head(maps.mean((2, 3))), {"maps": maps}


@pytest.mark.parametrize("name", ["FEM", "EigenCAM", "KPCA_CAM"])
def test_methods_without_targets_take_several_outputs(name):
    model, x = TwoOutputs().eval(), torch.randn(2, 3, 16, 20)
    cam = getattr(ours, name)(model, [model.conv])
    found = cam(x, [lambda output: output] * 2)
    assert found.shape == (2, 16, 20)
    assert isinstance(cam.outputs, tuple)
    if name == "FEM":
        assert abs(found - theirs.FEM(model, [model.conv])(x, [lambda output: output] * 2)).max() <= 1e-5


def test_several_outputs_have_no_scores():
    model = TwoOutputs().eval()
    with pytest.raises(TypeError, match="the model's output is a tuple of 2; expected a tensor"):
        ours.GradCAM(model, [model.conv])(torch.randn(1, 3, 16, 20))


def test_segmentation():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Upsample(scale_factor=2)).eval()
    x, mask = torch.randn(2, 3, 16, 20), np.zeros((16, 20), dtype=np.float32)
    mask[4:12, 3:10] = 1
    target, found = SemanticSegmentationTarget(2, mask), []
    for targets in ([target] * 2, [SemanticSegmentationTarget(2, mask), SemanticSegmentationTarget(1, mask)]):
        for package in (ours, theirs):
            found.append(package.GradCAM(model, [model[1]])(x, targets))
            model.zero_grad(set_to_none=True)
        assert abs(found[-1] - found[-2]).max() <= 1e-4


def test_a_detector():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(0)
    options = dict(box_score_thresh=0.0, box_detections_per_img=5, min_size=96, max_size=128)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3, **options).eval()
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        seen = model(x)[0]
    targets = [FasterRCNNBoxScoreTarget(seen["labels"][:2].tolist(), seen["boxes"][:2].numpy())]
    found = [
        package.EigenCAM(model, [model.backbone], reshape_transform=fasterrcnn_reshape_transform)(x, targets)
        for package in (ours, theirs)
    ]
    assert abs(found[0] - found[1]).max() <= 1e-3
    layer = ours.AblationLayerFasterRCNN()
    cam = ours.AblationCAM(model, [model.backbone], fasterrcnn_reshape_transform, layer, ratio_channels_to_ablate=0.01)
    assert cam(x, targets).shape == (1, 96, 128)
    assert isinstance(cam.outputs, list)


def test_modules_say_what_they_have():
    for name, hint in (
        ("sess.sliding_window", "nearest: camfast.windows.windows"),
        ("guided_backprop.GuidedBackpropReLU", "nearest: GuidedBackpropReLUModel"),
        ("grad_cam.GradCam", "did you mean GradCAM"),
    ):
        module, attribute = name.split(".")
        with pytest.raises(AttributeError, match=f"does not provide '{attribute}'; {hint}"):
            getattr(importlib.import_module(f"camfast.compat.pytorch_grad_cam.{module}"), attribute)
