"""Images that show what a network does with photos."""

import torch

from camfast.optimize.leaves import dead_leaves, leaves_like, not_flat


def test_are_the_same_every_time_and_touch_no_random_state():
    state = torch.get_rng_state()
    first, second = dead_leaves(2, 3, (40, 30)), dead_leaves(2, 3, (40, 30))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (2, 3, 40, 30)
    assert 0 <= float(first.min()) < 0.1 < 0.9 < float(first.max()) <= 1
    assert not torch.equal(first[0], first[1])


def test_have_flat_parts_and_edges():
    (image,) = dead_leaves(1, 1, (224, 224))[:, 0]
    steps = (image[:, 1:] - image[:, :-1]).abs()
    assert float((steps == 0).float().mean()) > 0.8  # inside of leaves
    assert float(image.std()) > 0.15
    assert float((image == 0.5).float().mean()) < 0.02  # what is behind the leaves


def test_are_as_large_as_images_and_reach_as_far():
    batches = list(leaves_like(torch.full((3, 1, 20, 24), -2.5)))
    assert [list(batch.shape) for batch in batches] == [[3, 1, 20, 24], [3, 1, 20, 24], [2, 1, 20, 24]]
    leaves = torch.cat(batches)
    assert -2.5 <= float(leaves.min()) < -2
    assert 2 < float(leaves.max()) <= 2.5


def test_reach_to_1_beside_images_that_are_zero():
    (batch,) = leaves_like(torch.zeros(20, 3, 16, 16))
    assert list(batch.shape) == [8, 3, 16, 16]
    assert 0.9 < float(batch.abs().max()) <= 1


def test_the_smallest_images():
    (batch,) = leaves_like(torch.ones(8, 2, 1, 1))
    assert list(batch.shape) == [8, 2, 1, 1]


def test_flat_images_show_nothing():
    black, photo = torch.full((3, 8, 8), -2.0), torch.rand(3, 8, 8) * 4 - 2
    assert not_flat(torch.stack([black, photo, black * 0.9, photo * 0.01])).tolist() == [1]
    assert not_flat(torch.zeros(2, 3, 8, 8)).tolist() == []
