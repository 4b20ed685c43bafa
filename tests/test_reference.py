"""The reference: literal numbers for tiny cases, the definition in float64 for the rest."""

import pytest
import torch
from formula import cam64
from hypothesis import given
from hypothesis import strategies as st

from camfast import reference

MAP = [[0.0, 1.0], [2.0, 4.0]]


def test_two_channels_by_hand():
    activations = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    gradients = torch.tensor([[[[1.0, 1.0], [1.0, 1.0]], [[-2.0, -2.0], [-4.0, -4.0]]]])
    # weights are 1 and -3: L = [[1 - 3, 2], [3, 4 - 3]] = [[-2, 2], [3, 1]]; ReLU makes the -2 a 0
    heatmaps, ranges = reference.cam(activations, gradients)
    assert heatmaps.tolist() == [[[0.0, pytest.approx(2 / 3)], [1.0, pytest.approx(1 / 3)]]]
    assert ranges.tolist() == [[0.0, 3.0]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2, 2), MAP),
        ((1, 1), [[1.75]]),
        ((2, 4), [[0.0, 0.25, 0.75, 1.0], [2.0, 2.5, 3.5, 4.0]]),
        ((4, 2), [[0.0, 1.0], [0.5, 1.75], [1.5, 3.25], [2.0, 4.0]]),
        ((1, 2), [[1.0, 2.5]]),
    ],
)
def test_interpolation_by_hand(size, expected):
    maps, _ = reference.cam(torch.tensor([[MAP]]), weights=torch.ones(1, 1), size=size, normalize=False)
    assert maps.tolist() == [expected]


@given(
    shape=st.tuples(*[st.integers(1, 3), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)]),
    size=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    relu=st.booleans(),
    normalize=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_the_definition_in_float64(shape, size, relu, normalize, seed):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(shape, dtype=torch.float64, generator=generator)
    gradients = torch.randn(shape, dtype=torch.float64, generator=generator)
    got = reference.cam(activations, gradients, size=size, relu=relu, normalize=normalize)
    expected = cam64(activations, gradients, size=size, relu=relu, normalize=normalize)
    scale = max(1.0, expected[1].abs().max().item())
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-8 if normalize else 1e-12 * scale)
    torch.testing.assert_close(got[1], expected[1], rtol=0, atol=1e-12 * scale)


def test_gradients_flow_through_the_reference():
    activations = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    gradients = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, g: reference.cam(a, g, size=(5, 7))[0], (activations, gradients))
