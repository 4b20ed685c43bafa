"""The maps of pytorch-grad-cam, torchcam and captum, method by method: real photos, and three kinds of model."""

import numpy as np
import pytest
import torch
from formula import layer64
from formula_methods import stretched, upsampled
from skimage import data
from torchvision.models import resnet18

import camfast
from camfast.methods import METHODS

SIZE = (224, 224)
MODELS = ("efficientnet_lite0", "resnet18", "vit")
LAYERS = {
    "efficientnet_lite0": ("_conv_head", "_blocks.10"),
    "resnet18": ("layer4", "layer3"),
    "vit": ("blocks.2.norm1", "blocks.1.norm1"),
}
GRAD_CAM = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "elementwise": "GradCAMElementWise",
    "layercam": "LayerCAM",
    "segeigencam": "SegEigenCAM",
    "fem": "FEM",
    "shapleycam": "ShapleyCAM",
}
TORCHCAM = {"gradcam": "GradCAM", "xgradcam": "XGradCAM", "layercam": "LayerCAM"}


@pytest.fixture(scope="module")
def photos(lite0, cat):
    images = [torch.from_numpy(np.ascontiguousarray(image))[None] for image in (cat, data.astronaut())]
    return torch.cat([lite0.preprocess(image) for image in images])


@pytest.fixture(scope="module")
def models(lite0):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=4, num_classes=20)
    with torch.no_grad():  # as wide awake as a trained one: the peers add 1e-7 to what they divide by
        vit.head.weight.mul_(1e4)
    return {"efficientnet_lite0": lite0.module, "resnet18": resnet18(num_classes=20).eval(), "vit": vit.eval()}


def targets_of(model, x, which):
    if which == "given":
        return [3, 7]
    with torch.no_grad():
        return model(x).argmax(1).tolist()


def tokens_to_maps(t):
    return t[:, 1:].transpose(1, 2).reshape(len(t), -1, 14, 14)


def assert_same(ours, theirs, within):
    assert (ours.double() - theirs.double()).abs().max() <= within
    assert (ours.flatten(1).argmax(1) == theirs.flatten(1).argmax(1)).all()


CASES = [
    (name, model, which, layers)
    for name in GRAD_CAM
    for model in MODELS
    for which, layers in (("given", 1), ("predicted", 2))
    # Theirs has no second derivative through fused attention, and frees the graph that a second layer needs.
    if not (name == "shapleycam" and (model == "vit" or layers == 2))
    # A denominator that passes through zero: rounding decides, and the formula judges below.
    if (name, model, layers) != ("gradcam++", "vit", 2)
]


@pytest.mark.parametrize(("name", "model", "which", "layers"), CASES)
def test_pytorch_grad_cam(models, photos, name, model, which, layers):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, names = models[model], list(LAYERS[model][:layers])
    targets = targets_of(net, photos, which)
    peer = getattr(pytorch_grad_cam, GRAD_CAM[name])
    reshape = tokens_to_maps if model == "vit" else None
    with peer(net, [net.get_submodule(layer) for layer in names], reshape_transform=reshape) as made:
        theirs = torch.from_numpy(made(photos.clone(), [ClassifierOutputTarget(t) for t in targets]))
    net.zero_grad(set_to_none=True)
    ours = METHODS[name](net, names)(photos, targets)
    assert_same(ours, theirs, 1e-3 if name == "segeigencam" else 1e-4)


def test_grad_cam_plus_plus_of_two_layers_of_a_transformer_is_its_formula_but_for_rounding(models, photos):
    net, names = models["vit"], list(LAYERS["vit"])
    with camfast.capture(net, names) as seen:
        net(photos)[torch.arange(2), [3, 7]].sum().backward()
    net.zero_grad(set_to_none=True)

    def formula(dtype):
        seen_at = [[tokens_to_maps(t[name]).to(dtype) for t in (seen.activations, seen.gradients)] for name in names]
        layers = [stretched(plus_plus(*pair).relu()) for pair in seen_at]
        return stretched(sum(upsampled(layer, SIZE) for layer in layers))

    def plus_plus(a, g):
        alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3 + 1e-6)
        return ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1)

    exact = formula(torch.float64)
    rounding = (formula(torch.float32) - exact).abs().max()
    assert_same(camfast.GradCAMPlusPlus(net, names)(photos, [3, 7]), exact, 2 * rounding + 1e-5)


@pytest.mark.parametrize("which", ["predicted", "given"])
@pytest.mark.parametrize("model", ["efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("name", TORCHCAM)
def test_torchcam(models, photos, name, model, which):
    import torchcam.methods

    net, layer = models[model], LAYERS[model][0]
    targets = targets_of(net, photos, which)
    with getattr(torchcam.methods, TORCHCAM[name])(net, layer) as made:
        maps = made(targets, net(photos.clone().requires_grad_()))[0].detach()
    net.zero_grad(set_to_none=True)
    assert_same(METHODS[name](net, layer)(photos, targets), stretched(upsampled(maps, SIZE)), 1e-4)


def test_torchcam_grad_cam_plus_plus_but_for_a_division_that_theirs_loses(models, photos):
    """Theirs divides a copy, so that its weights are sums of cubed positive gradients; equation 19, in float64, judges."""
    from torchcam.methods import GradCAMpp

    net = models["resnet18"]
    with camfast.capture(net, "layer3") as seen:
        net(photos)[torch.arange(2), [3, 7]].sum().backward()
    with GradCAMpp(net, "layer3") as made:
        maps = made([3, 7], net(photos.clone().requires_grad_()))[0].detach()
    net.zero_grad(set_to_none=True)
    a, g = seen.activations["layer3"], seen.gradients["layer3"]
    cubed = ((g.double().relu() ** 3).sum((2, 3), keepdim=True) * a.double()).sum(1).relu()
    assert_same(stretched(upsampled(maps, SIZE)), stretched(upsampled(cubed, SIZE)), 1e-4)
    expected = layer64(a, g, "gradcam++").relu()
    assert_same(camfast.GradCAMPlusPlus(net, "layer3")(photos, [3, 7]), stretched(upsampled(expected, SIZE)), 1e-4)


@pytest.mark.parametrize("model", ["efficientnet_lite0", "resnet18"])
def test_captum(models, photos, model):
    from captum.attr import LayerGradCam

    net, layer = models[model], LAYERS[model][0]
    theirs = LayerGradCam(net, net.get_submodule(layer)).attribute(photos, [3, 7], relu_attributions=True)
    net.zero_grad(set_to_none=True)
    ours = camfast.GradCAM(net, layer)(photos, [3, 7])
    assert_same(ours, stretched(upsampled(theirs.detach()[:, 0], SIZE)), 1e-4)
