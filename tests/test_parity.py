"""The same maps as pytorch-grad-cam, torchcam and captum: a real model, real weights, a real photo."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

import camfast

LAYER = "_conv_head"


@pytest.fixture(scope="module")
def model(lite0):
    return lite0.module


@pytest.fixture(scope="module")
def x(lite0, cat):
    image = torch.from_numpy(cat)[None]
    return torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])


@pytest.fixture(scope="module")
def targets(model, x):
    with torch.no_grad():
        return [int(model(x)[0].argmax()), 285]  # the predicted class, and a given one


def upsampled(layer_maps: torch.Tensor) -> torch.Tensor:
    """Layer-size maps [N, h, w] as [N, 224, 224] in [0, 1]."""
    maps = interpolate(layer_maps[:, None], (224, 224), mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-4
    for a, b in zip(ours, theirs, strict=True):
        assert a.argmax() == b.argmax()
        assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0.999999


def test_pytorch_grad_cam(model, x, targets):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    for layers in ([LAYER], [LAYER, "_blocks.10"]):
        modules = [model.get_submodule(name) for name in layers]
        with GradCAM(model, modules) as peer:
            theirs = torch.from_numpy(peer(x.clone(), [ClassifierOutputTarget(t) for t in targets]))
        assert_same(camfast.GradCAM(model, layers)(x, targets), theirs)


def test_torchcam_gradcam(model, x, targets):
    from torchcam.methods import GradCAM

    with GradCAM(model, LAYER) as peer:
        logits = model(x.clone().requires_grad_())
        theirs = peer(targets, logits)[0].detach()
    model.zero_grad(set_to_none=True)
    assert_same(camfast.GradCAM(model, LAYER)(x, targets), upsampled(theirs))


def test_torchcam_cam(model, x, targets):
    from torchcam.methods import CAM

    with CAM(model, "_swish", fc_layer="_fc") as peer, torch.no_grad():
        model(x)
        theirs = peer(targets)[0]
    assert_same(camfast.CAM(model, "_swish")(x, targets), upsampled(theirs))


def test_captum(model, x, targets):
    from captum.attr import LayerGradCam

    theirs = LayerGradCam(model, model.get_submodule(LAYER)).attribute(x, targets, relu_attributions=True)
    model.zero_grad(set_to_none=True)
    assert_same(camfast.GradCAM(model, LAYER)(x, targets), upsampled(theirs.detach()[:, 0]))


def test_the_cat_is_a_cat_and_the_heat_lies_on_it(lite0, cat):
    explained = camfast.explain(lite0.module, lite0.preprocess(torch.from_numpy(cat)[None]))
    name = lite0.class_name(int(explained.targets[0]))
    assert name in ("tabby", "tiger cat", "Egyptian cat")
    # The face in the photo: between the ears, above the chin, and left of the blurred background at the right.
    region = lite0.preprocess.seen(300, 451)
    row, column = divmod(int(explained.heatmaps[0].argmax()), 224)
    y, x = region.top + row / 224 * region.height, region.left + column / 224 * region.width
    assert 60 < y < 270
    assert 60 < x < 370
    assert explained.heatmaps[0, :, :200].mean() > explained.heatmaps[0, :, 200:].mean()
