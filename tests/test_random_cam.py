"""RandomCAM: reproducible, of a seed, and nothing but random weights."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from map_contract import MapContract, X
from nets import PooledNet

import camfast
from camfast import ops
from camfast.methods.random import RandomCAM


class TestRandomCAM(MapContract):
    method = RandomCAM
    options: ClassVar = {"seed": 1}

    @pytest.mark.parametrize("seed", [0, 1])
    def test_maps_are_of_the_images_size_in_float32_from_0_to_1(self, seed):
        found = RandomCAM(PooledNet(), "conv", seed=seed)(X)
        assert found.shape == (3, 24, 20)
        assert found.amin() == 0
        assert found.amax() == 1


def test_the_map_is_the_activations_with_weights_uniform_from_minus_1_to_1():
    activations = torch.eye(400).reshape(1, 400, 20, 20)  # each channel at a place of its own: the map is the weights
    positive, _ = RandomCAM(PooledNet(), seed=5)._map(activations)(size=None, normalize=False)
    negative, _ = RandomCAM(PooledNet(), seed=5)._map(-activations)(size=None, normalize=False)
    weights = (positive - negative).flatten()
    assert positive.amin() == negative.amin() == 0
    assert weights.abs().amax() <= 1
    counts = torch.histc(weights, 4, -1, 1)
    assert counts.sum() == 400
    assert 70 < counts.amin() <= counts.amax() < 130
    generator = torch.Generator().manual_seed(5)
    assert weights.equal(torch.rand(400, generator=generator) * 2 - 1)


def test_seeds_differ_and_engines_of_a_seed_do_not():
    model = PooledNet()
    one, again, other = (RandomCAM(model, "conv", seed=seed)(X) for seed in (1, 1, 2))
    assert one.equal(again)
    assert not one.equal(other)
    assert RandomCAM(model, "conv")(X).equal(RandomCAM(model, "conv", seed=0)(X))


def test_a_sample_has_the_same_map_in_every_call_whatever_is_beside_it():
    cam = RandomCAM(PooledNet(), "conv")
    assert cam(X).equal(cam(X))
    torch.testing.assert_close(cam(X.flip(0)).flip(0), cam(X), rtol=0, atol=1e-6)


def test_the_state_of_random_numbers_is_left_alone():
    cam = RandomCAM(PooledNet(), "conv", seed=11)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    cam(X)
    assert torch.rand(3).equal(expected)
    state = np.random.get_state()[1].copy()
    cam(X)
    assert (np.random.get_state()[1] == state).all()


def test_one_operator_makes_the_map():
    model = PooledNet().eval()
    with camfast.capture(model, "act2") as seen, torch.no_grad():
        model(X)
    weights = torch.rand(16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected, _ = ops.cam(seen.activations["act2"], weights=weights.expand(3, -1), size=(24, 20))
    torch.testing.assert_close(RandomCAM(model, "act2")(X), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "0", 2**63])
def test_a_wrong_seed_is_named(seed):
    with pytest.raises(ValueError, match=f"seed={seed!r}; expected a whole number of at least 0"):
        RandomCAM(PooledNet(), seed=seed)


def test_settings_show_the_seed():
    assert RandomCAM(PooledNet(), seed=4).settings["seed"] == 4
