"""What every method that maps a layer holds to: a class of tests to inherit from, with the method as an attribute."""

import pickle
from typing import Any, ClassVar

import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet
from torch import nn

X = torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


class MapContract:
    method: ClassVar[type]
    options: ClassVar[dict[str, Any]] = {}

    def make(self, model: nn.Module, *args, **options):
        return self.method(model, *args, **self.options, **options)

    def test_maps_are_of_the_images_size_in_float32_from_0_to_1(self):
        found = self.make(PooledNet()).explain(X, 2)
        assert found.heatmaps.shape == (3, 24, 20)
        assert found.heatmaps.dtype == found.ranges.dtype == torch.float32
        assert found.heatmaps.amin() == 0
        assert found.heatmaps.amax((1, 2)).tolist() == [1, 1, 1]
        assert found.targets.tolist() == [2, 2, 2]
        assert (found.ranges[:, 0] >= 0).all()  # the negative part is cut off

    def test_a_batch_is_as_its_samples_one_by_one(self):
        cam = self.make(PooledNet())
        together = cam.explain(X, [0, 1, 2])
        for i in range(3):
            alone = cam.explain(X[i : i + 1], i)
            torch.testing.assert_close(alone.heatmaps[0], together.heatmaps[i], rtol=0, atol=1e-4)
            torch.testing.assert_close(alone.ranges[0], together.ranges[i], rtol=1e-4, atol=1e-6)

    def test_several_classes_are_as_one_by_one(self):
        cam = self.make(PooledNet(), ["act", "conv"])
        several = cam.explain(X, [[0, 4], [1, 1], [3, 2]])
        assert several.heatmaps.shape == (3, 2, 24, 20)
        assert several.ranges.shape == (3, 2, 2)
        for k, classes in enumerate(([0, 1, 3], [4, 1, 2])):
            one = cam.explain(X, classes)
            torch.testing.assert_close(several.heatmaps[:, k], one.heatmaps, rtol=0, atol=1e-4)
            torch.testing.assert_close(several.ranges[:, k], one.ranges, rtol=1e-4, atol=1e-6)

    def test_callables_as_targets(self):
        cam = self.make(PooledNet())
        torch.testing.assert_close(cam(X, lambda output: output[1]), cam(X, 1), rtol=0, atol=1e-4)

    def test_two_layers_count_the_same(self):
        model = PooledNet()
        both = self.make(model, ["act", "act2"])(X, 1, size="layer")
        mean = sum(self.make(model, name)(X, 1, size="layer") for name in ("act", "act2"))
        low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
        torch.testing.assert_close(both, (mean - low) / (high - low), rtol=0, atol=1e-4)

    def test_other_precisions_are_near(self):
        model = PooledNet()
        expected = self.make(model)(X, 1)
        torch.testing.assert_close(self.make(model.double())(X.double(), 1), expected, rtol=0, atol=1e-4)
        found = self.make(model.bfloat16())(X.bfloat16(), 1)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0.1)

    def test_under_autocast(self):
        model = PooledNet()
        expected = self.make(model)(X, 1)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(self.make(model)(X, 1), expected, rtol=0, atol=0.1)

    def test_a_sample_that_is_not_finite_is_zeros_and_touches_no_other(self):
        cam, x = self.make(PooledNet()), X.clone()
        x[1, 0, 5, 5] = torch.nan
        x[2, 2, 0, 0] = torch.inf
        found, alone = cam.explain(x, 1), cam.explain(X[:1], 1)
        assert found.heatmaps[1:].eq(0).all()
        assert found.ranges[1:].isnan().all()
        torch.testing.assert_close(found.heatmaps[:1], alone.heatmaps, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.ranges[:1], alone.ranges, rtol=1e-4, atol=1e-6)

    def test_activations_of_zero_give_zeros(self):
        model = PooledNet()
        nn.init.zeros_(model.conv.weight)
        nn.init.zeros_(model.conv.bias)
        found = self.make(model).explain(X, 1)
        assert found.heatmaps.eq(0).all()
        assert found.ranges.eq(0).all()

    def test_images_of_one_channel(self):
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        ).eval()
        found = self.make(model)(X[:, :1], 1)
        assert found.shape == (3, 24, 20)
        assert found.amax() == 1

    def test_an_empty_batch(self):
        assert self.make(PooledNet())(X[:0]).shape == (0, 24, 20)

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_frozen_and_in_any_grad_mode(self, context):
        model = PooledNet()
        expected = self.make(model)(X, 1)
        model.requires_grad_(False)
        with context():
            found = self.make(model)(X * 1, 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert not found.requires_grad

    @pytest.mark.parametrize("training", [True, False])
    def test_leaves_no_trace(self, training):
        model = PooledNet(inplace=True).train(training)
        model.norm.eval()
        model.stem.weight.requires_grad_(False)
        model(X).sum().backward()
        before, random = fingerprint(model), torch.get_rng_state()
        self.make(model)(X, 1)
        assert_same(before, fingerprint(model))
        assert torch.get_rng_state().equal(random)

    def test_leaves_no_trace_where_the_call_is_wrong(self):
        model = PooledNet().train()
        cam = self.make(model)
        cam(X)
        before = fingerprint(model)
        with pytest.raises(ValueError, match="targets has class 5; expected 0 to 4"):
            cam(X, 5)
        assert_same(before, fingerprint(model))

    def test_an_optimized_copy_gives_the_same(self):
        model = PooledNet()
        expected = self.make(model, "conv")(X, 1)
        torch.testing.assert_close(self.make(model, "conv", optimize="inference")(X, 1), expected, rtol=0, atol=1e-4)

    def test_an_engine_that_was_pickled_gives_the_same_with_the_same_settings(self):
        cam = self.make(PooledNet(), "act2")
        copy = pickle.loads(pickle.dumps(cam))
        assert copy.settings == cam.settings
        assert copy.settings.items() >= {"method": self.method.__name__, **self.options}.items()
        torch.testing.assert_close(copy(X), cam(X), rtol=0, atol=1e-6)

    def test_tokens_by_a_reshape_transform(self):
        model = nn.Sequential(
            nn.Conv2d(3, 6, 4, stride=4),
            nn.Flatten(2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        ).eval()
        cam = self.make(model, "2", lambda tokens: tokens.reshape(len(tokens), 6, 6, 5))
        assert cam(X, 1).shape == (3, 24, 20)
