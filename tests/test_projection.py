"""The first principal component: by hand, against the decomposition in float64, and what has no component."""

import numpy as np
import pytest
import torch
from svd import svd64

from camfast import projection
from camfast.projection import first_component, leading


def with_values(channels, positions, values):
    """A map [1, C, positions] with these singular values after centring."""
    count = len(values)
    left = torch.linalg.qr(torch.randn(channels, count, dtype=torch.float64))[0]
    ones = torch.ones(positions, 1, dtype=torch.float64)
    right = torch.linalg.qr(torch.cat([ones, torch.randn(positions, count, dtype=torch.float64)], 1))[0][:, 1:]
    return ((left * torch.tensor(values, dtype=torch.float64)) @ right.T)[None]


class TestByHand:
    def test_one_channel_is_its_own_component_less_its_mean(self):
        # mean 4
        assert first_component(torch.tensor([[[[0.0, 2.0], [4.0, 10.0]]]])).tolist() == [
            [[pytest.approx(-4), pytest.approx(-2)], [pytest.approx(0), pytest.approx(6)]]
        ]

    def test_the_value_of_largest_magnitude_is_positive(self):
        # mean 3: what is low stands out, and is positive
        found = first_component(torch.tensor([[[[0.0, 4.0], [4.0, 4.0]]]]))
        assert found.flatten().tolist() == pytest.approx([3, -1, -1, -1])

    def test_the_first_of_several_of_largest_magnitude_is_positive(self):
        for maps in ([[2.0, 0.0]], [[0.0, 2.0]]):
            assert first_component(torch.tensor([maps])).flatten().tolist() == pytest.approx([1, -1])

    def test_two_channels_that_vary_together(self):
        # 3 and 4 times (1, -1, 0, 0), on means of 5 and 7: of length 5
        maps = torch.tensor([[[8.0, 2.0, 5.0, 5.0], [11.0, 3.0, 7.0, 7.0]]])
        assert first_component(maps).flatten().tolist() == pytest.approx([5, -5, 0, 0], abs=1e-6)

    def test_of_two_channels_that_vary_apart_the_stronger(self):
        maps = torch.tensor([[[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, -3.0, 3.0]]])
        assert first_component(maps).flatten().tolist() == pytest.approx([0, 0, 3, -3], abs=1e-6)

    def test_a_volume_is_a_row_of_places(self):
        maps = torch.randn(2, 5, 3, 4, 2)
        assert first_component(maps).equal(first_component(maps.flatten(2)).reshape(2, 3, 4, 2))


@pytest.mark.parametrize(
    ("channels", "positions"),
    [(1, 9), (5, 1), (3, 16), (64, 49), (49, 49), (512, 49), (30, 400), (300, 400), (400, 300)],
)
def test_equals_the_decomposition_in_float64(channels, positions):
    maps = torch.randn(3, channels, positions).relu() + torch.rand(3, channels, 1) * torch.rand(3, 1, positions)
    expected = svd64(maps)
    scale = expected.abs().amax().clamp_min(1e-6)
    assert (first_component(maps) - expected).abs().amax() <= 1e-3 * scale
    found = first_component(maps.double())
    assert found.dtype == torch.float64
    assert (found - expected).abs().amax() <= 1e-9 * scale
    half = first_component(maps.bfloat16())
    assert half.dtype == torch.float32
    assert (half - svd64(maps.bfloat16())).abs().amax() <= 1e-3 * scale


@pytest.mark.parametrize(("channels", "positions"), [(300, 49), (40, 49), (400, 300)])
@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3])
def test_a_small_gap_between_singular_values_is_met_as_by_the_decomposition(channels, positions, gap):
    maps = with_values(channels, positions, [1, 1 - gap, *torch.linspace(0.9, 0.1, 20).tolist()])
    assert (first_component(maps) - svd64(maps)).abs().amax() <= 1e-9
    scale = svd64(maps).abs().amax()
    assert (first_component(maps.float()) - svd64(maps)).abs().amax() <= 1e-3 * scale


@pytest.mark.parametrize(("channels", "positions"), [(60, 49), (400, 300)])
def test_of_equal_singular_values_the_component_is_one_between_theirs(channels, positions):
    maps = with_values(channels, positions, [2, 2, 1, 0.5]).float()
    found = first_component(maps)
    assert found.norm() == pytest.approx(2, rel=1e-3)
    rows = maps[0] @ found[0]  # a singular vector, if an eigenvector of the Gram matrix
    torch.testing.assert_close(maps[0].T @ rows, 4 * found[0], rtol=0, atol=2e-3)
    assert found.equal(first_component(maps))


def test_steps_and_decomposition_find_the_same(monkeypatch):
    # Also of a matrix with large negative eigenvalues, as kernels have them.
    matrices = torch.randn(2, 60, 60, dtype=torch.float64)
    matrices = matrices + matrices.mT
    matrices[0] = matrices[0] @ matrices[0]
    matrices[1] -= 100 * torch.ones(60, 60)
    monkeypatch.setattr(projection, "_DIRECT", 1000)
    values, vectors = leading(matrices)
    for most in (1, 59):
        monkeypatch.setattr(projection, "_DIRECT", most)
        again, found = leading(matrices)
        torch.testing.assert_close(again, values, rtol=1e-6, atol=0)
        torch.testing.assert_close(
            (found * vectors).sum(1).abs(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6
        )


def test_steps_on_a_matrix_that_they_exhaust():
    vector = torch.zeros(400)
    vector[7] = 1
    value, found = leading(torch.stack([3 * vector[:, None] * vector, torch.zeros(400, 400), torch.eye(400)]))
    assert value.tolist() == pytest.approx([3, 0, 1])
    assert found[0].abs().tolist() == pytest.approx(vector.tolist(), abs=1e-6)


class TestNoComponent:
    def test_maps_that_are_the_same_everywhere_are_zeros(self):
        maps = torch.cat(
            [torch.zeros(1, 8, 30), torch.rand(3, 8, 1).expand(3, 8, 30) * 1e6, torch.full((1, 8, 30), 0.1)]
        )
        assert first_component(maps).eq(0).all()
        assert first_component(torch.rand(2, 5, 1, 1)).eq(0).all()

    def test_a_map_that_is_not_finite_is_nan_and_touches_no_other(self):
        maps = torch.randn(4, 6, 5, 5)
        clean = first_component(maps)
        maps[1, 2, 3, 4], maps[3, 0, 0, 0] = torch.nan, -torch.inf
        found = first_component(maps)
        assert found[[1, 3]].isnan().all()
        torch.testing.assert_close(found[[0, 2]], clean[[0, 2]], rtol=0, atol=1e-6)

    def test_no_maps(self):
        assert first_component(torch.zeros(0, 3, 4, 5)).shape == (0, 4, 5)

    @pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e25])
    def test_neither_small_nor_large_values_are_lost(self, scale):
        maps = torch.randn(2, 6, 5, 5)
        torch.testing.assert_close(first_component(maps * scale) / scale, first_component(maps), rtol=0, atol=1e-4)


def test_autocast_does_not_reach_the_computation():
    maps = torch.randn(2, 60, 7, 7)
    expected = first_component(maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert first_component(maps).equal(expected)


@pytest.mark.parametrize("shape", [(2, 512, 7, 7), (1, 24, 28, 28), (2, 3, 4, 4)])
def test_the_projection_of_pytorch_grad_cam_up_to_its_sign(shape):
    from pytorch_grad_cam.utils.svd_on_activations import (
        get_2d_projection,
        get_2d_projection_with_sign_correction,
    )

    maps = torch.randn(shape).relu() * torch.rand(shape[0], 1, *shape[2:])
    ours = first_component(maps)
    corrected = torch.from_numpy(get_2d_projection_with_sign_correction(maps.numpy()))
    scale = ours.abs().amax()
    assert (ours - corrected).abs().amax() <= 1e-3 * scale
    plain = torch.from_numpy(np.abs(get_2d_projection(maps.numpy())))
    assert (ours.abs() - plain).abs().amax() <= 1e-3 * scale
