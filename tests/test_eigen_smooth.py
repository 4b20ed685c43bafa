"""Eigen smoothing: the first component of what a rule adds up."""

from typing import ClassVar

import pytest
import torch
from formula import layer64
from map_contract import MapContract, X
from nets import PooledNet, by_autograd
from svd import assert_near, peer_maps, svd64
from torchvision.models import resnet18

import camfast
from camfast import reference
from camfast.components import eigen_smoothed
from camfast.methods.gradcam import GradCAM
from camfast.methods.rules import ElementwiseGradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM

METHODS = [GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, ElementwiseGradCAM, LayerCAM]
PEERS = {
    "GradCAM": GradCAM,
    "GradCAMPlusPlus": GradCAMPlusPlus,
    "XGradCAM": XGradCAM,
    "HiResCAM": HiResCAM,
    "GradCAMElementWise": ElementwiseGradCAM,
    "LayerCAM": LayerCAM,
}
RULES = [method.rule for method in METHODS]


class TestGradCAM(MapContract):
    method = GradCAM
    options: ClassVar = {"eigen_smooth": True}


class TestXGradCAM(MapContract):
    method = XGradCAM
    options: ClassVar = {"eigen_smooth": True}


class TestLayerCAM(MapContract):
    method = LayerCAM
    options: ClassVar = {"eigen_smooth": True}


class TestByHand:
    A = torch.tensor([[[[4.0, 0.0, 2.0]], [[3.0, 1.0, 2.0]]]])
    """2 and 1 times (1, -1, 0), on means of 2."""

    def test_given_weights(self):
        # 3 and 8 times (1, -1, 0) would come of weights 1.5 and 8, of length sqrt(73)
        _, ranges = eigen_smoothed(self.A, weights=torch.tensor([[1.5, 8.0]]))(size=None)
        assert ranges.tolist() == [[0, pytest.approx(73**0.5)]]

    def test_gradcam(self):
        # Weights are means, 2 and -4: 4 and -4 times (1, -1, 0), of length sqrt(32). The sum of the two would be 0.
        gradients = torch.tensor([[[[0.0, 6.0, 0.0]], [[-4.0, -4.0, -4.0]]]])
        heatmaps, ranges = eigen_smoothed(self.A, gradients)(size=None)
        assert heatmaps.flatten().tolist() == pytest.approx([1, 0, 0], abs=1e-6)
        assert ranges.tolist() == [[0, pytest.approx(32**0.5)]]

    def test_layercam(self):
        # The products are (0, 0, 2) and zeros: less the mean, a third of (-2, -2, 4)
        gradients = torch.tensor([[[[-5.0, 2.0, 1.0]], [[-1.0, -1.0, -1.0]]]])
        heatmaps, _ = eigen_smoothed(self.A, gradients, rule="layercam")(size=None, normalize=False)
        assert heatmaps.flatten().tolist() == pytest.approx([0, 0, 4 / 3], abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("places", [(5, 6), (3, 4, 2)])
def test_the_formula_in_float64(rule, several, places):
    activations = torch.rand(2, 7, *places, dtype=torch.float64)
    gradients = torch.randn(2, *([3] if several else []), 7, *places, dtype=torch.float64)
    found, _ = eigen_smoothed(activations, gradients, rule=rule)(size=None, normalize=False)
    for k in range(3 if several else 1):
        slopes = (gradients[:, k] if several else gradients).flatten(2)[:, :, None]
        rows = activations.flatten(2)[:, :, None]
        # What a channel adds to the map is the map of that channel alone.
        channels = torch.stack([layer64(rows[:, c : c + 1], slopes[:, c : c + 1], rule) for c in range(7)], 1)
        expected = svd64(channels).relu().reshape(2, *places)
        torch.testing.assert_close(found[:, k] if several else found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("several", [False, True])
def test_a_rule_adds_up_what_is_smoothed(rule, several):
    activations = torch.rand(2, 1, 7, 5, 6) if several else torch.rand(2, 7, 5, 6)
    gradients = torch.randn(2, *([3] if several else []), 7, 5, 6)
    channels = reference.weighted_activations(activations, gradients, None, rule)
    assert channels.shape == gradients.shape
    sums, _ = reference.cam(activations.reshape(2, 7, 5, 6), gradients, rule=rule, relu=False, normalize=False)
    torch.testing.assert_close(channels.sum(-3), sums, rtol=1e-4, atol=1e-5)


def test_the_closed_form_and_autograd_give_the_same():
    model = PooledNet()
    found = GradCAM(model, "act2", eigen_smooth=True).explain(X, [[0, 1]] * 3)
    expected = by_autograd(model, GradCAM, "act2", eigen_smooth=True).explain(X, [[0, 1]] * 3)
    torch.testing.assert_close(found.heatmaps, expected.heatmaps, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.ranges, expected.ranges, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_smoothing_is_off_by_default_and_changes_the_map(method):
    model = PooledNet()
    assert method(model, "act").settings["eigen_smooth"] is False
    assert method(model, "act", eigen_smooth=False)(X, 1).equal(method(model, "act")(X, 1))
    smoothed = method(model, "act", eigen_smooth=True)
    assert smoothed.settings["eigen_smooth"] is True
    assert not smoothed(X, 1).equal(method(model, "act")(X, 1))


def test_by_the_name_of_the_method():
    model = PooledNet()
    found = camfast.explain(model, X, "gradcam", targets=1, eigen_smooth=True)
    assert found.heatmaps.equal(GradCAM(model, eigen_smooth=True)(X, 1))


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_a_wrong_value_is_named(value):
    with pytest.raises(ValueError, match=f"eigen_smooth={value!r}; expected True or False"):
        GradCAM(PooledNet(), eigen_smooth=value)


@pytest.mark.parametrize("name", PEERS)
def test_efficientnet_lite0_as_pytorch_grad_cam(lite0, cat, name):
    import pytorch_grad_cam

    image = torch.from_numpy(cat)[None]
    x = torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])
    targets = [int(lite0.module(x)[0].argmax()), 285]
    for layers in (["_conv_head"], ["_blocks.10"], ["_conv_head", "_blocks.10"]):
        theirs = peer_maps(getattr(pytorch_grad_cam, name), lite0.module, layers, x, targets, eigen_smooth=True)
        assert_near(PEERS[name](lite0.module, layers, eigen_smooth=True)(x, targets), theirs)


@pytest.mark.parametrize("name", PEERS)
def test_resnet18_as_pytorch_grad_cam(name):
    import pytorch_grad_cam

    model, x = resnet18(weights=None).eval(), torch.randn(2, 3, 128, 128)
    for layers in (["layer4"], ["layer3"], ["layer3", "layer4"]):
        theirs = peer_maps(getattr(pytorch_grad_cam, name), model, layers, x, [3, 7], eigen_smooth=True)
        assert_near(PEERS[name](model, layers, eigen_smooth=True)(x, [3, 7]), theirs)
