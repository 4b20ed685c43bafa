"""The sanity check of randomized layers, and how heatmaps are compared."""

import math

import numpy as np
import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet, Tokens
from scipy.stats import spearmanr
from skimage.feature import hog as histograms
from skimage.metrics import structural_similarity
from torch import nn

import camfast
from camfast.metrics import sanity_check
from camfast.metrics.similarity import hog, oriented_gradients, pearson, spearman, ssim


class TestSimilarity:
    @pytest.mark.parametrize("ties", [False, True])
    def test_spearman_as_scipy(self, ties):
        a, b = torch.randn(3, 9, 11), torch.randn(3, 9, 11)
        if ties:
            a, b = a.relu(), (b * 2).round()
        expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(spearman(a, b), expected, atol=1e-6)

    def test_spearman_by_hand(self):
        a = torch.tensor([[[1.0, 2, 3, 4]]])
        assert spearman(a, a**3).tolist() == pytest.approx([1])
        assert spearman(a, -a).tolist() == pytest.approx([-1])
        # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 (1 + 1 + 1 + 1) / (4 (16 - 1)) = 0.6.
        assert spearman(a, torch.tensor([[[2.0, 1, 4, 3]]])).tolist() == pytest.approx([0.6])
        assert spearman(a, torch.ones(1, 1, 4)).tolist() == [0]

    def test_pearson_as_numpy_and_exactly_zero_where_constant(self):
        a, b = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
        expected = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(pearson(a, b), expected, atol=1e-6)
        assert pearson(a, torch.full_like(a, 0.1)).tolist() == [0, 0]

    def test_ssim_as_scikit_image(self):
        a = torch.rand(2, 40, 33)
        b = (a + 0.2 * torch.randn(2, 40, 33)).clamp(0, 1)
        options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
        expected = [structural_similarity(x.numpy(), y.numpy(), **options) for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(ssim(a, b), expected, atol=1e-5)
        torch.testing.assert_close(ssim(a, a), torch.ones(2))
        assert ssim(torch.rand(1, 3, 4), torch.rand(1, 3, 4)).isfinite().all()

    @pytest.mark.parametrize(("size", "cell"), [((64, 80), (16, 16)), ((50, 49), (16, 16)), ((30, 64), (10, 16))])
    def test_oriented_gradients_as_scikit_image(self, size, cell):
        maps = torch.rand(2, *size, dtype=torch.float64)
        expected = [histograms(each.numpy(), 9, cell, (3, 3), block_norm="L2-Hys") for each in maps]
        np.testing.assert_allclose(oriented_gradients(maps), expected, atol=1e-6)  # it counts in float32

    def test_hog_by_hand(self):
        # Gradients to the right and down: each is all of its blocks' one orientation, and none of the other's. Of nine
        # orientations in nine cells those 9 values of 81 are 1/3: cor = -(9/81)² / (9/81 - (9/81)²) = -1/8.
        right = torch.arange(48.0).expand(1, 48, 48) / 48
        down = right.mT
        assert hog(right, right).tolist() == pytest.approx([1])
        assert hog(right, 1 - right).tolist() == pytest.approx([1])  # edges have no side
        assert hog(right, down).tolist() == pytest.approx([-1 / 8], abs=0.02)  # but for the margins
        assert hog(right, torch.ones(1, 48, 48)).tolist() == [0]

    def test_hog_of_pictures_and_volumes_of_any_size(self):
        for shape in [(2, 1, 1), (2, 2, 5), (2, 3, 3), (2, 4, 20, 24)]:
            assert hog(torch.rand(shape), torch.rand(shape)).isfinite().all()
        volume = torch.rand(2, 4, 20, 24)
        torch.testing.assert_close(hog(volume, volume), torch.ones(2))


class Halves(nn.Module):
    """Two layers with one weight each beside biases and a norm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.last = nn.Linear(2, 3)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).mean((2, 3)))


class Watcher:
    """Explains nothing, but notes which layers of its model are not as they were in the first one it saw."""

    def __init__(self):
        self.changed = []
        self.state = None

    def __call__(self, model):
        def explain(x, targets):
            state = {name: value.clone() for name, value in model.state_dict().items()}
            self.state = self.state or state
            self.changed.append([name for name in state if not state[name].equal(self.state[name])])
            return x[:, 0]

        return explain


def test_cascading_keeps_what_was_randomized_and_independent_does_not():
    model, x = Halves().eval(), torch.rand(2, 1, 6, 6)
    watcher = Watcher()
    found = sanity_check(model, x, watcher)
    last, first = ["last.weight", "last.bias"], ["first.weight", "first.bias"]
    assert watcher.changed == [[], last, first + last]
    assert found.layers == ("last", "first")
    watcher = Watcher()
    sanity_check(model, x, watcher, mode="independent")
    assert watcher.changed == [[], last, first]
    watcher = Watcher()
    sanity_check(model, x, watcher, layers=[model.first])
    assert watcher.changed == [[], first]


def test_an_explanation_that_ignores_the_model_fails():
    model, x = Halves().eval(), torch.rand(2, 1, 6, 6)
    found = sanity_check(model, x, lambda model: lambda x, targets: x[:, 0])
    torch.testing.assert_close(found.spearman, torch.ones(2, 2))
    torch.testing.assert_close(found.ssim, torch.ones(2, 2))
    torch.testing.assert_close(found.hog, torch.ones(2, 2))
    assert found.scores.values.tolist() == pytest.approx([1, 1])
    assert (found.scores.better, found.scores.curves.shape) == ("lower", (2, 2))
    assert repr(found).splitlines() == [
        "cascading  spearman   ssim    hog",
        "last          1.000  1.000  1.000",
        "first         1.000  1.000  1.000",
    ]


def test_grad_cam_depends_on_what_was_learned(lite0, cat):
    x = lite0.preprocess(torch.from_numpy(cat)[None])
    found = sanity_check(
        lite0.module, x, camfast.GradCAM(lite0.module, "_conv_head"), layers=["_fc", "_conv_head", "_blocks.15"]
    )
    assert found.spearman.shape == (1, 3)
    assert found.ssim.amax() < 0.9
    assert found.spearman.amax() < 0.8
    assert found.hog.amax() < 0.8


@pytest.mark.parametrize("explainer", ["gradcam", camfast.GradCAM, lambda m: camfast.GradCAM(m, "conv"), None])
def test_any_explainer_and_the_same_each_time(explainer):
    model, x = PooledNet().eval(), torch.randn(2, 3, 16, 16)
    explainer = explainer or camfast.GradCAM(model, optimize="inference")
    one, other = (sanity_check(model, x, explainer, seed=3) for _ in range(2))
    assert one.layers == ("head", "conv", "stem")
    torch.testing.assert_close(one.spearman, other.spearman)
    assert not one.spearman.equal(sanity_check(model, x, explainer, seed=4).spearman)


def test_layers_without_a_reset_are_drawn_too():
    model, x = Tokens().eval(), torch.randn(1, 3, 16, 16)
    found = sanity_check(model, x, Watcher(), layers=["mix"])
    assert found.layers == ("mix",)
    assert "mix.self_attn" in sanity_check(model, x, Watcher()).layers


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_no_trace_also_where_the_explainer_fails(mode):
    model, x = PooledNet().train(), torch.randn(1, 3, 16, 16)
    before, drawn = fingerprint(model), torch.get_rng_state()
    sanity_check(model, x, "gradcam", mode=mode)

    def failing(model):
        calls = []

        def explain(x, targets):
            calls.append(x)
            if len(calls) == 2:
                raise KeyError("halfway")
            return x[:, 0]

        return explain

    twice = failing(model)
    with pytest.raises(KeyError, match="halfway"):
        sanity_check(model, x, lambda m: twice, mode=mode)
    assert_same(before, fingerprint(model))
    assert torch.get_rng_state().equal(drawn)


def test_a_heatmap_that_is_not_finite_has_no_similarity():
    found = sanity_check(
        Halves().eval(),
        torch.rand(2, 1, 6, 6),
        lambda m: lambda x, t: x[:, 0] * torch.tensor([1, math.nan])[:, None, None],
    )
    assert found.spearman[1].isnan().all()
    assert found.ssim[1].isnan().all()
    assert found.hog[1].isnan().all()
    assert found.spearman[0].isfinite().all()


def test_bad_arguments():
    model, x = PooledNet().eval(), torch.randn(1, 3, 16, 16)
    with pytest.raises(ValueError, match="mode='all'; expected one of 'cascading', 'independent'"):
        sanity_check(model, x, "gradcam", mode="all")
    with pytest.raises(ValueError, match="seed=0.5; expected a whole number"):
        sanity_check(model, x, "gradcam", seed=0.5)
    with pytest.raises(ValueError, match="layers has 'norm', which has no weights of two or more dimensions"):
        sanity_check(model, x, "gradcam", layers=["norm"])
    with pytest.raises(ValueError, match="layers is empty"):
        sanity_check(model, x, "gradcam", layers=[])
    with pytest.raises(ValueError, match="'nothing' is not"):
        sanity_check(model, x, "gradcam", layers=["nothing"])
    with pytest.raises(ValueError, match="the model has no layer with weights"):
        sanity_check(nn.Flatten(), x, "gradcam")
    with pytest.raises(ValueError, match="explainer explains another model"):
        sanity_check(model, x, camfast.GradCAM(PooledNet()))
    with pytest.raises(TypeError, match="explainer is a int; expected a method, its name"):
        sanity_check(model, x, 3)
    with pytest.raises(ValueError, match="method 'gradcm' is unknown; did you mean gradcam"):
        sanity_check(model, x, "gradcm")
    model.made = torch.ones(1, requires_grad=True) * 2  # no leaf: PyTorch copies only leaves
    with pytest.raises(ValueError, match=r"the model cannot be copied \(.*\); the check randomizes only a copy"):
        sanity_check(model, x, "gradcam")
