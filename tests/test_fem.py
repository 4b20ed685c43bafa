"""FEM: by hand, the formula in float64, and pytorch-grad-cam."""

import math

import pytest
import torch
from map_contract import MapContract
from nets import PooledNet
from svd import peer_maps
from torchvision.models import resnet18

from camfast.methods.fem import FEM


class TestFEM(MapContract):
    method = FEM

    def test_activations_of_zero_give_zeros(self):
        super().test_activations_of_zero_give_zeros()
        activations = torch.rand(2, 6, 1, 1).expand(2, 6, 5, 7) * 1000
        assert FEM(PooledNet())._map(activations)(size=None)[1].eq(0).all()  # nothing stands out


class TestByHand:
    # Mean 1, deviation sqrt((8 * 1 + 8²) / 9) = 2.83: of the nine the 9 alone is above 1 + 2 * 2.83
    ONE = torch.tensor([[0.0, 0, 0], [0, 9, 0], [0, 0, 0]])
    # Mean 2/9, deviation sqrt(14) / 9 = 0.42: above 1.05 is none
    NONE = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 1, 1]])

    def test_a_channel_counts_by_what_stands_out(self):
        activations = torch.stack([self.ONE, self.NONE])[None]
        heatmaps, ranges = FEM(PooledNet())._map(activations)(size=None, normalize=False)
        assert heatmaps.tolist() == [[[0, 0, 0], [0, pytest.approx(9 / 9), 0], [0, 0, 0]]]
        assert ranges.tolist() == [[0, pytest.approx(1)]]

    def test_k_says_how_far(self):
        activations = torch.stack([self.ONE, self.NONE])[None]
        # 1 + 3 * 2.83 is above 9; 2/9 + 1 * 0.42 is below 1, of which there are two
        assert FEM(PooledNet(), k=3)._map(activations)(size=None)[1].tolist() == [[0, 0]]
        heatmaps, _ = FEM(PooledNet(), k=1)._map(activations)(size=None, normalize=False)
        assert heatmaps[0, 1].tolist() == [0, pytest.approx(1), 0]
        assert heatmaps[0, 2].tolist() == [0, pytest.approx(2 / 9), pytest.approx(2 / 9)]

    def test_negative_sums_are_cut_off(self):
        heatmaps, _ = FEM(PooledNet())._map(self.ONE[None, None] - 5)(size=None, normalize=False)
        assert heatmaps.sum() == pytest.approx(4 / 9)


@pytest.mark.parametrize("places", [(9, 11), (5, 6, 4)])
@pytest.mark.parametrize("k", [0, 1.5, 2])
def test_the_formula_in_float64(places, k):
    activations = torch.randn(2, 7, *places)
    rows = activations.double().flatten(2)
    bound = rows.mean(2, keepdim=True) + k * rows.std(2, keepdim=True, correction=0)
    weights = (rows > bound).double().mean(2, keepdim=True)
    expected = (weights * rows).sum(1).relu().reshape(2, *places)
    found, _ = FEM(PooledNet(), k=k)._map(activations)(size=None, normalize=False)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def assert_same(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("layers", [["_conv_head"], ["_blocks.4"], ["_conv_head", "_blocks.10"]])
def test_efficientnet_lite0_as_pytorch_grad_cam(lite0, cat, layers):
    from pytorch_grad_cam import FEM as Peer

    image = torch.from_numpy(cat)[None]
    x = torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])
    assert_same(FEM(lite0.module, layers)(x), peer_maps(Peer, lite0.module, layers, x, [1, 1], turned=False))


def test_resnet18_as_pytorch_grad_cam():
    from pytorch_grad_cam import FEM as Peer

    model, x = resnet18(weights=None).eval(), torch.randn(2, 3, 128, 128)
    for layers in (["layer4"], ["layer3"], ["layer3", "layer4"]):
        for k in (1, 2):
            theirs = peer_maps(Peer, model, layers, x, [1, 1], turned=False, k=k)
            assert_same(FEM(model, layers, k=k)(x), theirs)


@pytest.mark.parametrize("k", [-1, math.nan, math.inf, True, "2", None])
def test_a_wrong_k_is_named(k):
    with pytest.raises(ValueError, match=f"k={k!r}; expected a number of standard deviations, at least 0"):
        FEM(PooledNet(), k=k)


def test_settings_show_k():
    assert FEM(PooledNet()).settings["k"] == 2
