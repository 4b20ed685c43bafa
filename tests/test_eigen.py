"""EigenCAM, EigenGradCAM and SegEigenCAM: by hand, the formula in float64, and pytorch-grad-cam."""

import pytest
import torch
from map_contract import MapContract, X
from nets import PooledNet
from svd import assert_near, peer_maps, svd64
from torchvision.models import resnet18

import camfast
from camfast.methods.eigen import EigenCAM, EigenGradCAM, SegEigenCAM

PAIRS = [("EigenCAM", EigenCAM), ("EigenGradCAM", EigenGradCAM), ("SegEigenCAM", SegEigenCAM)]


class TestEigenCAM(MapContract):
    method = EigenCAM


class TestEigenGradCAM(MapContract):
    method = EigenGradCAM


class TestSegEigenCAM(MapContract):
    method = SegEigenCAM


class TestByHand:
    A = torch.tensor([[[[8.0, 2.0], [5.0, 5.0]], [[11.0, 3.0], [7.0, 7.0]]]])
    """3 and 4 times (1, -1, 0, 0), on means of 5 and 7."""

    def test_eigencam(self):
        heatmaps, ranges = EigenCAM(PooledNet())._map(self.A)(size=None)
        assert heatmaps.flatten().tolist() == pytest.approx([1, 0, 0, 0], abs=1e-6)
        assert ranges.tolist() == [[0, pytest.approx(5)]]

    def test_the_class_comes_in_by_the_gradients(self):
        # The products are (0, 0, 0, 0) and -1 times (11, 3, 7, 7), of mean -7: (-4, 4, 0, 0), turned to (4, -4, 0, 0).
        gradients = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
        for method in (EigenGradCAM, SegEigenCAM):
            heatmaps, ranges = method(PooledNet())._map(self.A, gradients)(size=None)
            assert heatmaps.flatten().tolist() == pytest.approx([1, 0, 0, 0], abs=1e-6)
            assert ranges.tolist() == [[0, pytest.approx(4)]]

    def test_seg_eigen_takes_the_magnitude_of_gradients(self):
        activations = torch.tensor([[[[1.0, 1.0], [1.0, 5.0]]]])
        gradients = torch.tensor([[[[0.0, 0.0], [2.0, -1.0]]]])
        # Products 0, 0, 2, -5 of mean -0.75; of magnitudes 0, 0, 2, 5 of mean 1.75
        plain, _ = EigenGradCAM(PooledNet())._map(activations, gradients)(size=None, normalize=False)
        assert plain.flatten().tolist() == pytest.approx([0, 0, 0, 4.25])  # -4.25 stands out, and turns all around
        magnitude, _ = SegEigenCAM(PooledNet())._map(activations, gradients)(size=None, normalize=False)
        assert magnitude.flatten().tolist() == pytest.approx([0, 0, 0.25, 3.25])


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("places", [(4, 6), (3, 4, 2)])
def test_the_formula_in_float64(places, several):
    activations = torch.randn(2, 7, *places)
    gradients = torch.randn(2, *([3] if several else []), 7, *places)
    each = activations[:, None] if several else activations
    for method, products in ((EigenGradCAM, gradients * each), (SegEigenCAM, gradients.abs() * each)):
        found, _ = method(PooledNet())._map(activations, gradients)(size=None, normalize=False)
        expected = svd64(products.flatten(0, -len(places) - 2)).relu().reshape(found.shape)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    found, _ = EigenCAM(PooledNet())._map(activations)(size=None, normalize=False)
    torch.testing.assert_close(found.double(), svd64(activations).relu().reshape(2, *places), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "method"), PAIRS)
@pytest.mark.parametrize("layers", [["_conv_head"], ["_blocks.4"], ["_conv_head", "_blocks.10"]])
def test_efficientnet_lite0_as_pytorch_grad_cam(lite0, cat, name, method, layers):
    import pytorch_grad_cam

    image = torch.from_numpy(cat)[None]
    x = torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])
    targets = [int(lite0.module(x)[0].argmax()), 285]
    theirs = peer_maps(getattr(pytorch_grad_cam, name), lite0.module, layers, x, targets)
    assert_near(method(lite0.module, layers)(x, targets), theirs)


@pytest.mark.parametrize(("name", "method"), PAIRS)
@pytest.mark.parametrize("layers", [["layer4"], ["layer3"], ["layer3", "layer4"]])
def test_resnet18_as_pytorch_grad_cam(name, method, layers):
    import pytorch_grad_cam

    model, x = resnet18(weights=None).eval(), torch.randn(2, 3, 128, 128)
    theirs = peer_maps(getattr(pytorch_grad_cam, name), model, layers, x, [3, 7])
    assert_near(method(model, layers)(x, [3, 7]), theirs)


def test_eigencam_is_the_same_for_every_class_and_needs_no_gradient(monkeypatch):
    model = PooledNet()
    monkeypatch.setattr(torch.autograd, "grad", None)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    cam = EigenCAM(model, "act2")
    assert cam(X, 0).equal(cam(X, 3))
    assert cam(X, camfast.TopK(2)).unbind(1)[0].equal(cam(X))


def test_methods_take_no_other_arguments():
    with pytest.raises(TypeError, match="EigenCAM has no option 'kernel'; known: target_layers"):
        EigenCAM(PooledNet(), kernel="rbf")
