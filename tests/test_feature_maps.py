"""The feature maps of layers by name and pattern."""

import pytest
import torch
from fingerprint import assert_same, fingerprint
from nets import PooledNet, Raises, Tokens, Wrapped
from torch import nn

from camfast.feature_maps import feature_maps, first_middle_last


def test_every_convolution_by_default():
    model, x = PooledNet(inplace=True), torch.rand(2, 3, 8, 8)
    found, without = feature_maps(model, x)
    assert [str(layer) for layer in found] == ["stem: Conv2d, 8 of 4×4", "conv: Conv2d, 16 of 4×4"]
    assert without == []
    model.eval()
    torch.testing.assert_close(found[0].maps, model.stem(x).detach())  # what it put out, before BatchNorm in training
    assert (found[1].maps < 0).any()  # and before the in-place ReLU


def test_patterns_in_the_order_of_running_and_what_has_no_map():
    model = PooledNet()
    found, without = feature_maps(model, torch.rand(1, 3, 8, 8), ["*a*", "conv"])
    assert [layer.layer for layer in found] == ["act", "conv", "act2"]
    assert without == ["head"]


def test_tokens_are_read_as_maps_and_without_convolutions_all_layers_are_taken():
    found, _ = feature_maps(Tokens(), torch.rand(1, 3, 32, 32), "norm")
    assert found[0].maps.shape == (1, 12, 4, 4)
    pooling = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 2))
    found, without = feature_maps(pooling, torch.rand(1, 3, 8, 8))
    assert [layer.layer for layer in found] == ["0"]
    assert without == ["1", "2"]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = PooledNet().train(training)
    before = fingerprint(model)
    feature_maps(model, torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match="is not in the model"):
        feature_maps(model, torch.rand(2, 3, 8, 8), "nope")
    assert_same(before, fingerprint(model))
    broken = Raises()
    before = fingerprint(broken)
    with pytest.raises(KeyError, match="the user's own exception"):
        feature_maps(broken, torch.rand(2, 3, 8, 8))
    assert_same(before, fingerprint(broken))


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (PooledNet(), "convv", "layer 'convv' is not in the model; did you mean conv"),
        (PooledNet(), [], "layers is empty; give at least one layer"),
        (PooledNet(), ["h*"], r"layers=\['h\*'\]: no layer puts out feature maps .*; 'head' puts out \[1, 5\]"),
        (Wrapped(Wrapped(PooledNet(), lambda t: [t]), lambda t: t[0]), "inner", "'inner' puts out a list"),
        (nn.Sequential(nn.ModuleList([nn.Flatten()])[0]), None, "no layer puts out feature maps"),
    ],
)
def test_what_cannot_be_shown_is_named(model, layers, message):
    with pytest.raises(ValueError, match=message):
        feature_maps(model, torch.rand(1, 3, 8, 8), layers)


def test_a_layer_that_does_not_run_is_named():
    model = PooledNet()
    model.unused = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="layer 'unused' does not run by itself; choose layers that put out"):
        feature_maps(model, torch.rand(1, 3, 8, 8), "unused")


def test_first_middle_last():
    assert first_middle_last("abcdefg") == ["a", "d", "g"]
    assert first_middle_last("abc") == ["a", "b", "c"]
    assert first_middle_last("ab") == ["a", "b"]
    assert first_middle_last("a") == ["a"]
