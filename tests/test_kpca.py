"""KPCA-CAM: its kernels by hand, against scikit-learn's kernel PCA and pytorch-grad-cam, and what it refuses."""

import math
from typing import ClassVar

import pytest
import torch
from map_contract import MapContract
from nets import PooledNet
from svd import assert_near, peer_maps
from torchvision.models import resnet18

from camfast.methods.eigen import EigenCAM
from camfast.methods.kpca import KPCACAM

KERNELS = ["linear", "rbf", "sigmoid", "poly", "cosine"]


class TestKPCACAM(MapContract):
    method = KPCACAM


class TestKPCACAMWithARadialKernel(MapContract):
    method = KPCACAM
    options: ClassVar = {"kernel": "rbf", "gamma": 0.1}


def scores(activations, **options):
    """The map before its normalization, the negative part cut off."""
    return KPCACAM(PooledNet(), **options)._map(activations)(size=None, normalize=False)[0]


@pytest.mark.parametrize(
    ("kernel", "same", "other"),
    [
        # of a place with itself, and of the two places: x = 1.5 and -1.5, gamma = 0.2, and so 0.2 * 2.25 = 0.45
        ("linear", 2.25, -2.25),
        ("rbf", 1, math.exp(-0.2 * 9)),
        ("sigmoid", math.tanh(1.45), math.tanh(0.55)),
        ("poly", 1.45**3, 0.55**3),
        ("cosine", 1, -1),
    ],
)
def test_two_places_by_hand(kernel, same, other):
    # Values 7 and 4, less their mean. The kernel matrix [[same, other], [other, same]] less its means is
    # (same - other) / 2 * [[1, -1], [-1, 1]], of eigenvalue same - other and eigenvector (1, -1) / sqrt(2).
    options = {} if kernel in ("linear", "cosine") else {"gamma": 0.2}
    found = scores(torch.tensor([[[[7.0, 4.0]]]]), kernel=kernel, **options)
    assert found.flatten().tolist() == pytest.approx([math.sqrt((same - other) / 2), 0])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("places", [(6, 5), (2, 3, 4), (18, 18)])
def test_the_projection_of_scikit_learn(kernel, places):
    from sklearn.decomposition import KernelPCA

    activations = torch.randn(2, 6, *places)
    gammas = [None] if kernel in ("linear", "cosine") else [None, 0.05]
    for gamma in gammas:
        found = scores(activations, kernel=kernel, gamma=gamma)
        for ours, sample in zip(found, activations.double(), strict=True):
            rows = sample.flatten(1).T
            rows = (rows - rows.mean(0)).numpy()
            kpca = KernelPCA(n_components=1, kernel=kernel, gamma=gamma)
            theirs = torch.from_numpy(kpca.fit_transform(rows)).reshape(places).float()
            assert theirs.abs().amax() == theirs.amax()  # its sign is the same
            torch.testing.assert_close(ours, theirs.relu(), rtol=0, atol=1e-3 * float(theirs.amax()))


def test_the_linear_kernel_is_eigencam():
    activations = torch.randn(2, 6, 5, 5)
    expected, _ = EigenCAM(PooledNet())._map(activations)(size=None, normalize=False)
    torch.testing.assert_close(scores(activations, kernel="linear"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", ["rbf", "sigmoid", "poly"])
def test_small_activations_are_not_lost_beside_the_constant_of_a_kernel(kernel):
    # For which all kernels but the cosine's are linear, up to a factor.
    activations = torch.randn(2, 6, 5, 5)
    found = scores(activations * 1e-5, kernel=kernel)
    expected = scores(activations, kernel="linear")
    torch.testing.assert_close(found / found.amax(), expected / expected.amax(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_activations_that_are_the_same_everywhere_give_zeros(kernel):
    activations = torch.rand(2, 6, 1, 1).expand(2, 6, 5, 5) * 1000
    heatmaps, ranges = KPCACAM(PooledNet(), kernel=kernel)._map(activations)(size=None)
    assert heatmaps.eq(0).all()
    assert ranges.eq(0).all()


def test_a_kernel_that_overflows_gives_zeros_and_no_number():
    activations = torch.randn(2, 6, 5, 5)
    activations[1] *= 1e15
    heatmaps, ranges = KPCACAM(PooledNet(), kernel="poly")._map(activations)(size=None)
    assert heatmaps[1].eq(0).all()
    assert ranges[1].isnan().all()
    assert heatmaps[0].amax() == 1


@pytest.mark.parametrize("layers", [["_conv_head"], ["_blocks.4"], ["_conv_head", "_blocks.10"]])
def test_efficientnet_lite0_as_pytorch_grad_cam(lite0, cat, layers):
    from pytorch_grad_cam import KPCA_CAM

    image = torch.from_numpy(cat)[None]
    x = torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])
    theirs = peer_maps(KPCA_CAM, lite0.module, layers, x, [285, 285])
    assert_near(KPCACAM(lite0.module, layers)(x), theirs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_resnet18_as_pytorch_grad_cam(kernel):
    from pytorch_grad_cam import KPCA_CAM

    model, x = resnet18(weights=None).eval(), torch.randn(2, 3, 128, 128)
    for layers in (["layer4"], ["layer3"], ["layer3", "layer4"]):
        theirs = peer_maps(KPCA_CAM, model, layers, x, [3, 7], kernel=kernel)
        assert_near(KPCACAM(model, layers, kernel=kernel)(x), theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "laplacian"}, "kernel='laplacian' is unknown; expected one of 'linear', 'rbf', 'sigmoid'"),
        ({"gamma": 0}, "gamma=0; expected a positive number, or None for one over the channels"),
        ({"gamma": -1.0}, "gamma=-1.0; expected a positive number"),
        ({"gamma": math.nan}, "gamma=nan; expected a positive number"),
        ({"gamma": math.inf}, "gamma=inf; expected a positive number"),
        ({"gamma": True}, "gamma=True; expected a positive number"),
        ({"gamma": "1"}, "gamma='1'; expected a positive number"),
        ({"kernel": "linear", "gamma": 1.0}, "gamma=1.0 was given, which kernel='linear' has not; leave it out"),
        ({"kernel": "cosine", "gamma": 1.0}, "gamma=1.0 was given, which kernel='cosine' has not; leave it out"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KPCACAM(PooledNet(), **options)


def test_settings_show_the_parameters():
    assert KPCACAM(PooledNet()).settings.items() >= {"kernel": "sigmoid", "gamma": None}.items()
    assert KPCACAM(PooledNet(), kernel="rbf", gamma=2).settings.items() >= {"kernel": "rbf", "gamma": 2}.items()
