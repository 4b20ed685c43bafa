"""Deep feature factorization: concepts by hand, as near to the activations as pytorch-grad-cam, and no trace."""

import dataclasses

import numpy as np
import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet
from torch import nn

import camfast
from camfast.methods.dff import DeepFeatureFactorization

X = torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


def identity(classes=3):
    """A model whose first layer passes on what it is given."""
    return nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes)).eval()


class TestByHand:
    # Two concepts: the first channel above, 4 at most; the second and the third below, in a ratio of 1 : 2, 3 and 6.
    X = torch.tensor([[[[4.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]], [[0.0, 0.0], [6.0, 0.0]]]])

    def test_concepts_and_where_they_are(self):
        found = DeepFeatureFactorization(identity(), "0").factorize(self.X, 2)
        assert found.concepts.T.tolist() == [pytest.approx([0, 3, 6], abs=1e-4), pytest.approx([4, 0, 0], abs=1e-4)]
        assert found.heatmaps.shape == (1, 2, 2, 2)
        assert found.heatmaps[0, 0].flatten().tolist() == pytest.approx([0, 0, 1, 0], abs=1e-4)
        assert found.heatmaps[0, 1].flatten().tolist() == pytest.approx([1, 0.5, 0, 0], abs=1e-4)
        assert found.ranges[0].tolist() == [pytest.approx([0, 1], abs=1e-4), pytest.approx([0, 1], abs=1e-4)]
        assert found.scores is None

    def test_a_channels_minimum_is_added_to_the_concepts(self):
        base = torch.tensor([10.0, -20.0, 0.5])
        found = DeepFeatureFactorization(identity(), "0").factorize(self.X + base[:, None, None], 2)
        expected = torch.tensor([[0.0, 4.0], [3.0, 0.0], [6.0, 0.0]]) + base[:, None]
        torch.testing.assert_close(found.concepts, expected, rtol=0, atol=1e-3)

    def test_heatmaps_are_stretched_one_by_one_or_of_the_batch(self):
        dff, x = DeepFeatureFactorization(identity(), "0"), torch.cat([self.X, self.X / 2])
        stretched = dff.factorize(x, 2)
        torch.testing.assert_close(stretched.heatmaps[0], stretched.heatmaps[1], rtol=0, atol=1e-4)
        plain = dff.factorize(x, 2, normalize=False)
        torch.testing.assert_close(plain.heatmaps[0], 2 * plain.heatmaps[1], rtol=0, atol=1e-4)
        assert plain.ranges[..., 1].tolist() == [pytest.approx([1, 1]), pytest.approx([0.5, 0.5])]

    def test_scores_are_what_the_head_makes_of_each_concept(self):
        model = identity()
        found = DeepFeatureFactorization(model, "0", head=model[3]).factorize(self.X, 2)
        torch.testing.assert_close(found.scores, model[3](found.concepts.T).detach())
        assert found.scores.shape == (2, 3)
        function = DeepFeatureFactorization(model, "0", head=lambda vectors: vectors * 2).factorize(self.X, 2)
        assert function.scores.equal(function.concepts.T * 2)


class TestResult:
    def test_shapes_types_and_ranges(self):
        found = DeepFeatureFactorization(PooledNet()).factorize(X, components=4)
        assert found.concepts.shape == (16, 4)
        assert found.heatmaps.shape == (3, 4, 24, 20)
        assert found.ranges.shape == (3, 4, 2)
        assert found.heatmaps.dtype == found.ranges.dtype == torch.float32
        assert found.heatmaps.amin() == 0
        assert found.heatmaps.amax() == 1
        assert not any(t.requires_grad for t in (found.concepts, found.heatmaps, found.ranges))

    def test_it_is_frozen(self):
        found = DeepFeatureFactorization(PooledNet()).factorize(X, 2)
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.concepts = None

    def test_the_layer_is_found(self):
        dff = DeepFeatureFactorization(PooledNet())
        assert dff.target_layers is None
        dff.factorize(X, 2)
        assert dff.target_layers == ["act2"]

    def test_sizes(self):
        dff = DeepFeatureFactorization(PooledNet())
        assert dff.factorize(X, 2, size=(7, 9)).heatmaps.shape == (3, 2, 7, 9)
        assert dff.factorize(X, 2, size="layer").heatmaps.shape == (3, 2, 12, 10)

    def test_the_same_every_time(self):
        model = PooledNet()
        one, other = (DeepFeatureFactorization(model, "act2").factorize(X, 3) for _ in range(2))
        assert one.concepts.equal(other.concepts)
        assert one.heatmaps.equal(other.heatmaps)

    def test_tokens_by_a_reshape_transform(self):
        model = nn.Sequential(
            nn.Conv2d(3, 6, 4, stride=4), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4)
        )
        dff = DeepFeatureFactorization(model, "1", lambda t: t.reshape(len(t), 6, 6, 5))
        assert dff.factorize(X, 2).heatmaps.shape == (3, 2, 24, 20)

    def test_images_of_one_channel(self):
        model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
        assert DeepFeatureFactorization(model).factorize(X[:, :1], 2).heatmaps.amax() == 1

    def test_a_model_whose_output_is_no_logits(self):
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        assert DeepFeatureFactorization(model, "1").factorize(X, 2).heatmaps.shape == (3, 2, 24, 20)


class TestWhatIsNotFinite:
    def test_a_sample_is_zeros_and_touches_no_other(self):
        dff, x = DeepFeatureFactorization(PooledNet()), X.clone()
        x[1, 0, 0, 0] = torch.nan
        found, alone = dff.factorize(x, 3), dff.factorize(X[[0, 2]], 3)
        assert found.heatmaps[1].eq(0).all()
        assert found.ranges[1].isnan().all()
        torch.testing.assert_close(found.concepts, alone.concepts, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.heatmaps[[0, 2]], alone.heatmaps, rtol=0, atol=1e-4)

    def test_a_batch_without_a_finite_sample(self):
        found = DeepFeatureFactorization(PooledNet(), head=nn.Linear(16, 5)).factorize(X * torch.nan, 3)
        assert found.concepts.shape == (16, 3)
        assert found.concepts.isnan().all()
        assert found.scores.isnan().all()
        assert found.heatmaps.eq(0).all()

    def test_fewer_finite_places_than_components(self):
        x = torch.rand(4, 3, 1, 1)
        x[:3] = torch.nan
        found = DeepFeatureFactorization(identity(), "0").factorize(x, 3)
        assert found.concepts.shape == (3, 3)
        assert found.heatmaps.shape == (4, 3, 1, 1)

    def test_zeros(self):
        found = DeepFeatureFactorization(identity(), "0", head=identity()[3]).factorize(torch.zeros(2, 3, 4, 4), 2)
        assert found.concepts.eq(0).all()
        assert found.heatmaps.eq(0).all()
        assert found.ranges.eq(0).all()

    def test_an_empty_batch(self):
        found = DeepFeatureFactorization(PooledNet()).factorize(X[:0], 3)
        assert found.heatmaps.shape == (0, 3, 24, 20)
        assert found.concepts.shape == (16, 3)


class TestModels:
    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_frozen_and_in_any_grad_mode(self, context):
        model = PooledNet()
        expected = DeepFeatureFactorization(model, head=model.head).factorize(X, 3)
        model.requires_grad_(False)
        with context():
            found = DeepFeatureFactorization(model, head=model.head).factorize(X * 1, 3)
        torch.testing.assert_close(found.heatmaps, expected.heatmaps, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.scores, expected.scores)
        assert not found.scores.requires_grad

    @pytest.mark.parametrize("training", [True, False])
    def test_leaves_no_trace(self, training):
        model = PooledNet(inplace=True).train(training)
        model(X).sum().backward()
        before, random = fingerprint(model), torch.get_rng_state()
        DeepFeatureFactorization(model, head=nn.Sequential(model.dropout, model.head)).factorize(X, 3)
        assert_same(before, fingerprint(model))
        assert torch.get_rng_state().equal(random)  # the head's dropout did not run

    def test_half_precision_is_near(self):
        model = PooledNet()
        expected = DeepFeatureFactorization(model, head=model.head).factorize(X, 2)
        model.bfloat16()
        found = DeepFeatureFactorization(model, head=model.head).factorize(X.bfloat16(), 2)
        assert found.concepts.dtype == found.scores.dtype == torch.float32
        torch.testing.assert_close(found.heatmaps, expected.heatmaps, rtol=0, atol=0.1)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0.1, atol=0.1)

    def test_an_optimized_copy_gives_the_same(self):
        model = PooledNet()
        expected = DeepFeatureFactorization(model, "act2").factorize(X, 3)
        found = DeepFeatureFactorization(model, "act2", optimize="inference").factorize(X, 3)
        torch.testing.assert_close(found.heatmaps, expected.heatmaps, rtol=0, atol=1e-3)


class TestWrongArguments:
    @pytest.mark.parametrize("components", [0, -1, 17, 1.5, True, "3", None])
    def test_components(self, components):
        dff = DeepFeatureFactorization(PooledNet())
        message = (
            f"components={components!r}; expected a whole number from 1 to 16, for activations \\[3, 16, 12, 10\\]"
        )
        with pytest.raises(ValueError, match=message):
            dff.factorize(X, components)

    def test_more_components_than_places(self):
        with pytest.raises(ValueError, match="components=3; expected a whole number from 1 to 2"):
            DeepFeatureFactorization(identity(), "0").factorize(torch.rand(1, 3, 1, 2), 3)

    def test_several_layers(self):
        with pytest.raises(ValueError, match="a factorization is of one target layer, 2 were given; make one for each"):
            DeepFeatureFactorization(PooledNet(), ["act", "act2"])

    def test_a_head_that_cannot_be_called(self):
        with pytest.raises(TypeError, match=r"head is a str; expected a callable that maps \[k, C\] to \[k, classes\]"):
            DeepFeatureFactorization(PooledNet(), head="head")

    def test_a_head_that_makes_no_scores(self):
        model = PooledNet()
        for head, found in ((lambda v: v.sum(), r"\[\]"), (lambda v: v.T, r"\[16, 2\]"), (lambda v: None, "NoneType")):
            with pytest.raises(ValueError, match=rf"head made {found} of concepts \[2, 16\]; expected \[2, classes\]"):
                DeepFeatureFactorization(model, head=head).factorize(X, 2)

    def test_sizes_and_inputs(self):
        dff = DeepFeatureFactorization(PooledNet())
        with pytest.raises(ValueError, match="expected"):
            dff.factorize(X, 2, size=(0, 3))
        with pytest.raises(ValueError, match=r"expected \[N, C, H, W\]: add the batch dimension"):
            dff.factorize(X[0], 2)
        with pytest.raises(ValueError, match="target layer 'act3' is not in the model"):
            DeepFeatureFactorization(PooledNet(), "act3")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("layer", ["_conv_head", "_blocks.10"])
def test_as_near_to_the_activations_as_pytorch_grad_cam(lite0, cat, layer):
    from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff

    image = torch.from_numpy(cat)[None]
    x = torch.cat([lite0.preprocess(image), lite0.preprocess(image.flip(2))])
    with camfast.capture(lite0.module, layer, gradients=False) as seen, torch.no_grad():
        lite0.module(x)
    activations = seen.activations[layer]
    lowest = activations.amin((0, 2, 3))[:, None]

    def error(concepts, shares):
        made = torch.einsum("ck,nkhw->nchw", concepts - lowest, shares) + lowest[:, :, None]
        return (made - activations).norm()

    theirs = error(*(torch.from_numpy(np.float32(t)) for t in dff(activations.numpy().copy(), 5)))
    found = DeepFeatureFactorization(lite0.module, layer).factorize(x, 5, size="layer", normalize=False)
    assert error(found.concepts, found.heatmaps) <= 1.01 * theirs
