"""Non-negative matrix factorization: by hand, and as near to the matrix as scikit-learn comes."""

import math

import numpy as np
import pytest
import torch
from skimage import data
from sklearn.decomposition import NMF

import camfast
from camfast.nmf import factorize


class TestByHand:
    def test_one_part(self):
        matrix = torch.tensor([[1.0, 2.0, 0.0], [3.0, 6.0, 0.0]])
        left, right = factorize(matrix, 1)
        assert left.flatten().tolist() == pytest.approx([2, 6])  # at its strongest, which is the second column
        assert right.flatten().tolist() == pytest.approx([0.5, 1, 0], abs=1e-6)

    def test_two_parts_that_do_not_meet_the_larger_first(self):
        matrix = torch.tensor([[0.0, 0.0, 5.0, 10.0], [2.0, 1.0, 0.0, 0.0], [4.0, 2.0, 0.0, 0.0]])
        left, right = factorize(matrix, 2)
        assert left.T.tolist() == [pytest.approx([10, 0, 0], abs=1e-5), pytest.approx([0, 2, 4], abs=1e-5)]
        assert right.tolist() == [pytest.approx([0, 0, 0.5, 1], abs=1e-5), pytest.approx([1, 0.5, 0, 0], abs=1e-5)]

    def test_one_part_of_the_best_error(self):
        # The best of one part is that of the singular values, as its vectors have no negative: 3 of 3 and 1.
        left, right = factorize(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 1)
        assert (left @ right - torch.tensor([[2.0, 1.0], [1.0, 2.0]])).norm() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (5, 5)])
def test_factors_are_not_negative_and_the_right_ones_reach_1(dtype, shape):
    matrix = torch.rand(shape, dtype=dtype)
    left, right = factorize(matrix, 4)
    assert left.shape == (shape[0], 4)
    assert right.shape == (4, shape[1])
    assert left.dtype == right.dtype == dtype
    assert left.amin() >= 0
    assert right.amin() >= 0
    torch.testing.assert_close(right.amax(1), torch.ones(4, dtype=dtype))
    sizes = left.norm(dim=0) * right.norm(dim=1)
    assert sizes.diff().le(0).all()


def test_the_same_matrix_has_the_same_factors_at_any_scale():
    matrix = torch.rand(20, 15)
    left, right = factorize(matrix, 3)
    again = factorize(matrix, 3)
    assert left.equal(again[0])
    assert right.equal(again[1])
    for scale in (2.0**-100, 2.0**100):
        scaled = factorize(matrix * scale, 3)
        torch.testing.assert_close(scaled[0] / scale, left, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(scaled[1], right, rtol=1e-3, atol=1e-4)


def test_a_matrix_that_is_the_product_of_few_parts_is_met():
    matrix = torch.rand(40, 3) @ torch.rand(3, 60)
    left, right = factorize(matrix, 3)
    assert (left @ right - matrix).norm() <= 0.01 * matrix.norm()
    left, right = factorize(matrix, 6)
    assert (left @ right - matrix).norm() <= 0.01 * matrix.norm()


def test_a_matrix_of_zeros():
    left, right = factorize(torch.zeros(4, 6), 2)
    assert left.eq(0).all()
    assert right.eq(0).all()


def test_autocast_does_not_reach_the_computation():
    matrix = torch.rand(20, 15)
    expected = factorize(matrix, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, factorize(matrix, 3), expected))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("layer", ["_conv_head", "_swish", "_blocks.10"])
@pytest.mark.parametrize("samples", [1, 3])
def test_as_near_as_scikit_learn_on_the_activations_of_a_model(lite0, layer, samples):
    photos = (data.chelsea(), data.astronaut(), data.coffee())[:samples]
    x = torch.cat([lite0.preprocess(torch.from_numpy(photo.copy())[None]) for photo in photos])
    with camfast.capture(lite0.module, layer, gradients=False) as seen, torch.no_grad():
        lite0.module(x)
    matrix = seen.activations[layer].transpose(0, 1).flatten(1)
    matrix = matrix - matrix.amin(1, keepdim=True)
    for parts in (2, 5, 8):
        peer = NMF(n_components=parts, init="random", random_state=0)
        theirs = np.linalg.norm(matrix.numpy() - peer.fit_transform(matrix.numpy()) @ peer.components_)
        left, right = factorize(matrix, parts)
        error = (left @ right - matrix).norm().item()
        assert math.isfinite(error)
        assert error <= 1.01 * theirs
