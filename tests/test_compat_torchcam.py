"""camfast.compat.torchcam against torchcam itself: the same calls, the same values, shapes, dtypes and devices."""

import copy
import logging

import pytest
import torch
import torchcam.methods as peer
from formula import layer64
from nets import PooledNet
from torch import nn
from torchvision.models import resnet18, vgg11
from torchvision.models.vision_transformer import VisionTransformer

import camfast
import camfast.compat.torchcam.methods as ours

logging.getLogger("torchcam").setLevel(logging.ERROR)

LAYERS = {
    "efficientnet_lite0": ["_conv_head", "_blocks.10"],
    "resnet18": ["layer4", "layer3"],
    "vgg11": ["features.19", "features.14"],
}
SIZES = {"efficientnet_lite0": (64, 80), "resnet18": (32, 40), "vgg11": (32, 40)}
TARGETS = {
    "int": {"class_idx": 3},
    "list": {"class_idx": [3, 7]},
    "callable": {"targets": lambda output: output[3] - output[5]},
    "callables": {"targets": [lambda output: output[3], lambda output: output[5] * 2]},
}


def awake(model):
    """Maps with more contrast than the 1e-8 that torchcam adds to what it divides by."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def models(lite0):
    torch.manual_seed(0)
    made = {"resnet18": resnet18(num_classes=20), "vgg11": vgg11(num_classes=20)}
    return {"efficientnet_lite0": lite0.module, **{name: awake(model) for name, model in made.items()}}


def images(name, samples):
    return torch.randn(samples, 3, *SIZES[name], generator=torch.Generator().manual_seed(samples))


def both(method, model, layers, x, normalized=True, scored=True, call=None, **options):
    """What the two libraries make of the same forward pass."""
    found = []
    for library in (peer, ours):
        made = {name: getattr(library, value) if name == "base_method" else value for name, value in options.items()}
        with getattr(library, method)(model, layers, **made) as extractor:
            scores = model(x)
            found.append(extractor(scores=scores if scored else None, normalized=normalized, **call))
    return found


def assert_same(theirs, mine, within=1e-4):
    assert isinstance(mine, list)
    assert len(mine) == len(theirs)
    for one, other in zip(theirs, mine, strict=True):
        assert (other.shape, other.dtype, other.device) == (one.shape, one.dtype, one.device)
        assert not other.requires_grad
        scale = one.abs().max().clamp_min(1)
        assert (other - one).abs().max() <= within * scale


def call_of(which, samples):
    call = TARGETS[which]
    return {name: value[:samples] if isinstance(value, list) else value for name, value in call.items()}


@pytest.mark.parametrize(
    ("samples", "layers", "which"), [(1, 1, "list"), (2, 2, "int"), (2, 1, "callables"), (2, 2, "list")]
)
@pytest.mark.parametrize("method", ["GradCAM", "XGradCAM", "LayerCAM"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradient_methods_make_the_maps_of_torchcam(models, name, method, samples, layers, which):
    names = LAYERS[name][0] if layers == 1 else LAYERS[name]
    call = call_of(which, samples)
    for normalized in (True, False):
        assert_same(*both(method, models[name], names, images(name, samples), normalized, call=call))


def test_maps_are_those_of_a_shared_callable_too(models):
    assert_same(*both("GradCAM", models["resnet18"], "layer4", images("resnet18", 2), call=TARGETS["callable"]))


@pytest.mark.parametrize("comparison", [None, 4, [4, 5], [[4, 5], [6, 8]]])
@pytest.mark.parametrize("base", ["GradCAM", "LayerCAM"])
def test_finer_cam_makes_the_maps_of_torchcam(models, base, comparison):
    call = {"class_idx": [3, 7], "comparison_idx": comparison}
    x = images("resnet18", 2)
    assert_same(*both("FinerCAM", models["resnet18"], ["layer4", "layer3"], x, call=call, base_method=base, gamma=0.4))


@pytest.mark.parametrize("shape", [None, (9, 11)])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg11"])
def test_refine_cam_makes_the_maps_of_torchcam(models, name, shape):
    call = {"class_idx": [3, 7], "target_shape": shape}
    for normalized in (True, False):
        maps = both(
            "RefineCAM", models[name], LAYERS[name], images(name, 2), normalized, call=call, base_method="LayerCAM"
        )
        assert_same(*maps)
        assert len(maps[1]) == 1


@pytest.mark.parametrize(("method", "options"), [("ScoreCAM", {}), ("ISCAM", {"num_samples": 2})])
def test_score_methods_make_the_maps_of_torchcam(method, options):
    model = awake(PooledNet())
    x = torch.randn(2, 3, 20, 24)
    for which in ("int", "list", "callable"):
        call = {"class_idx": [1, 3]} if which == "list" else {"class_idx": 1} if which == "int" else {}
        call = call or {"targets": lambda output: output[3] - output[1]}
        for layers in ("act2", ["act2", "act"]):
            with torch.no_grad():
                assert_same(*both(method, model, layers, x, batch_size=64, call=call, scored=False, **options))


def test_score_cam_of_a_residual_network_makes_the_maps_of_torchcam(models):
    with torch.no_grad():
        assert_same(*both("ScoreCAM", models["resnet18"], "layer2", images("resnet18", 1), call={"class_idx": 3}))


def test_ss_cam_with_hardly_any_noise_makes_the_maps_of_torchcam():
    model = awake(PooledNet())
    x = torch.randn(2, 3, 20, 24)
    with torch.no_grad():
        assert_same(*both("SSCAM", model, "act2", x, num_samples=2, std=1e-8, call={"class_idx": [1, 3]}))


@pytest.mark.parametrize("samples", [1, 2])
def test_cam_makes_the_maps_of_torchcam(samples):
    model = resnet18(num_classes=20).eval()
    x = images("resnet18", samples)
    with torch.no_grad():
        for call in ({"class_idx": 3}, {"class_idx": [3, 7][:samples]}):
            assert_same(*both("CAM", model, "layer4", x, call=call, scored=False, fc_layer="fc"))
            assert_same(*both("CAM", model, None, x, False, call=call, scored=False, input_shape=(3, 64, 64)))


def test_smooth_grad_cam_with_hardly_any_noise_makes_the_maps_of_torchcam_before_a_global_pooling(models):
    x = images("resnet18", 2)
    for scored in (True, False):
        call = {"class_idx": [3, 7]}
        assert_same(*both("SmoothGradCAMpp", models["resnet18"], "layer4", x, scored=scored, call=call, std=1e-8))


def test_smooth_grad_cam_is_that_of_camfast(models):
    model, x = models["resnet18"], images("resnet18", 2)
    with ours.SmoothGradCAMpp(model, "layer3", num_samples=2) as extractor:
        (maps,) = extractor([3, 7], model(x))
    expected = camfast.SmoothGradCAMPlusPlus(model, "layer3", num_samples=2)(x, [3, 7], size="layer")
    assert (maps - expected).abs().max() <= 1e-4


def test_legrad_makes_the_maps_of_torchcam():
    vit = VisionTransformer(32, 8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10).eval()
    nn.init.normal_(vit.heads[-1].weight)
    x = torch.randn(2, 3, 32, 32)
    blocks = list(vit.encoder.layers)
    for layers in (blocks[-1], blocks[-2:]):
        for normalized in (True, False):
            for call in ({"class_idx": 3}, {"class_idx": [3, 7]}):
                assert_same(*both("LeGrad", vit, layers, x, normalized, call=call))
    with ours.LeGrad(vit, blocks, grid_shape=(2, 8)) as extractor:
        vit(x)
        assert extractor(3)[0].shape == (2, 2, 8)


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "frozen", "training", "twice", "by hand"])
def test_legrad_makes_the_same_maps_whatever_the_forward_pass_was(how):
    vit = VisionTransformer(32, 8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10).eval()
    nn.init.normal_(vit.heads[-1].weight)
    x, blocks = torch.randn(2, 3, 32, 32), list(vit.encoder.layers)[1:]
    expected = [camfast.LeGrad(vit, blocks)(x, [3, 7], size="layer")]
    with ours.LeGrad(vit, blocks) as extractor:
        vit.requires_grad_(how != "frozen").train(how == "training")
        with getattr(torch, how)() if hasattr(torch, how) else torch.enable_grad():
            scores = vit(x)
        if how == "twice":
            assert_same(expected, extractor([3, 7], scores, retain_graph=True), 1e-5)
            assert_same(expected, extractor([3, 7], scores), 1e-5)
        if how == "by hand":
            scores[:, 0].sum().backward()  # which frees the graph
        assert_same(expected, extractor([3, 7], scores), 1e-5)
        assert copy.deepcopy(vit)(x).shape == (2, 10)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in vit.modules())


def test_grad_cam_plus_plus_follows_the_paper_where_torchcam_loses_the_division(models):
    """torchcam 0.5.0 divides a copy, so that its weights are sums of cubed positive gradients."""
    model, x = models["resnet18"], images("resnet18", 2)
    (theirs,), (mine,) = both("GradCAMpp", model, "layer3", x, False, call={"class_idx": [3, 7]})
    with camfast.capture(model, "layer3") as seen:
        model(x)[torch.arange(2), [3, 7]].sum().backward()
    model.zero_grad(set_to_none=True)
    a, g = seen.activations["layer3"].double(), seen.gradients["layer3"].double()
    cubed = ((g.relu() ** 3).sum((2, 3), keepdim=True) * a).sum(1).relu()
    assert (theirs - cubed).abs().max() <= 1e-4 * cubed.max()
    expected = layer64(a, g, "gradcam++").relu()
    assert (mine - expected).abs().max() <= 1e-4 * expected.max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_maps_have_the_dtype_of_the_layer(dtype):
    model, x = awake(PooledNet()).to(dtype), torch.randn(1, 3, 20, 24, dtype=dtype)
    for method in ("GradCAM", "ScoreCAM", "SmoothGradCAMpp"):
        with getattr(ours, method)(model, "act2") as extractor:
            (maps,) = extractor(1, model(x))
        assert maps.dtype == dtype
        assert maps.max() == 1


@pytest.mark.parametrize("shape", [(3, 40), (3, 4, 8, 8)])
@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "XGradCAM", "CAM"])
def test_signals_and_volumes_are_explained(method, shape):
    dimensions = len(shape) - 1
    conv, pool = (nn.Conv1d, nn.AdaptiveAvgPool1d) if dimensions == 1 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    model = awake(nn.Sequential(conv(3, 6, 3), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(6, 4)))
    x = torch.randn(2, *shape)
    assert_same(*both(method, model, "1", x, call={"class_idx": [1, 2]}))
    assert_same(*both(method, model, None, x, call={"class_idx": 1}, input_shape=shape))


def test_tokens_are_read_with_a_transform_and_without_one():
    vit = VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10).eval()
    nn.init.normal_(vit.heads[-1].weight)
    x, layer = torch.randn(2, 3, 32, 32), "encoder.layers.encoder_layer_1.ln_1"

    def transform(t):
        return t[:, 1:].transpose(1, 2).reshape(len(t), -1, 4, 4)

    theirs, mine = both("LayerCAM", vit, layer, x, call={"class_idx": [3, 7]}, reshape_transform=transform)
    assert_same(theirs, mine)
    with ours.LayerCAM(vit, layer) as extractor:
        assert_same(theirs, extractor([3, 7], vit(x)))


@pytest.mark.parametrize("target_shape", [None, (10, 13)])
@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM"])
def test_maps_are_fused_as_by_torchcam(method, target_shape):
    cams = [torch.rand(2, 5, 6), torch.rand(2, 9, 4)]
    theirs, mine = (getattr(library, method).fuse_cams(cams, target_shape) for library in (peer, ours))
    assert_same([theirs], [mine], 1e-6)
    assert getattr(ours, method).fuse_cams(cams[:1]) is cams[0]


def test_fuse_cams_names_what_is_wrong():
    for fuse in (ours.GradCAM.fuse_cams, ours.RefineCAM.fuse_cams):
        with pytest.raises(TypeError, match="cams is a Tensor; expected a list of tensors"):
            fuse(torch.zeros(1, 2, 2))
        with pytest.raises(ValueError, match="cams is an empty list"):
            fuse([])


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_the_layer_that_is_found_is_the_one_that_torchcam_finds(models, name, caplog):
    for shape in ((3, 32, 40), (3, 64, 64)):
        found = [library.GradCAM(models[name], input_shape=shape) for library in (peer, ours)]
        assert found[0].target_names == found[1].target_names
        for extractor in found:
            extractor.remove_hooks()
    assert "no target_layer was given: 'layer4' is explained" in caplog.text or name == "vgg11"
