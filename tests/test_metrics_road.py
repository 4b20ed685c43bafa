"""ROAD: the imputation against a direct solver in float64, and the metric by hand."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from linear_nets import FOUR, SumNet

from camfast import metrics
from camfast.metrics.infill import fill

MODEL = SumNet()


def direct(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One image [C, H, W] with its hole [H, W] filled: every pixel of it is the weighted mean of its neighbours."""
    height, width = hole.shape
    number = -np.ones(hole.shape, int)
    number[hole] = np.arange(hole.sum())
    system = scipy.sparse.lil_matrix((hole.sum(), hole.sum()))
    right = np.zeros((hole.sum(), len(image)))
    for y, x in np.argwhere(hole):
        row = number[y, x]
        for dy, dx in ((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                weight = 1 if dy and dx else 2
                system[row, row] += weight
                if hole[y + dy, x + dx]:
                    system[row, number[y + dy, x + dx]] -= weight
                else:
                    right[row] += weight * image[:, y + dy, x + dx]
    filled = image.copy()
    filled[:, hole] = scipy.sparse.linalg.spsolve(system.tocsc(), right).reshape(hole.sum(), -1).T
    return filled


def disc(height, width, y, x, radius):
    return np.hypot(np.arange(height)[:, None] - y, np.arange(width) - x) <= radius


RANDOM = np.random.default_rng(0)
HOLES = {
    "one pixel": disc(9, 9, 4, 4, 0),
    "a disc": disc(40, 56, 20, 25, 14),
    "at a corner": disc(37, 53, 0, 52, 30),
    "two": disc(41, 30, 8, 8, 6) | disc(41, 30, 30, 20, 9),
    "all but a disc": ~disc(61, 47, 20, 25, 3),
    "all but one pixel": ~disc(33, 29, 0, 0, 0),
    "half": np.arange(48)[:, None] + np.zeros((1, 35)) < 24,
    "scattered": RANDOM.random((50, 50)) < 0.7,
    "nearly all, scattered": RANDOM.random((64, 40)) < 0.97,
    "stripes": (np.arange(30)[:, None] // 3 + np.zeros((1, 44))) % 2 == 0,
    "a row": np.arange(40)[None] % 5 > 0,
    "a column": np.arange(40)[:, None] % 5 > 0,
    "two rows": RANDOM.random((2, 70)) < 0.8,
    "tiny": np.array([[True, False], [True, True]]),
}


@pytest.mark.parametrize("name", HOLES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 5e-5), (torch.float64, 1e-9)])
def test_as_a_direct_solver(name, dtype, atol):
    hole = HOLES[name]
    image = np.random.default_rng(1).normal(size=(3, *hole.shape))
    filled = fill(torch.tensor(image, dtype=dtype)[None], torch.tensor(hole)[None])[0]
    assert filled.dtype == dtype
    np.testing.assert_allclose(filled, direct(image, hole), rtol=0, atol=atol)
    assert filled[:, torch.tensor(~hole)].equal(torch.tensor(image, dtype=dtype)[:, torch.tensor(~hole)])


def test_a_large_hole_in_a_real_photo(lite0, cat):
    image = lite0.preprocess(torch.from_numpy(cat)[None])[0, :, ::2, ::2]
    hole = ~disc(112, 112, 90, 30, 15)
    filled = fill(image[None], torch.tensor(hole)[None])[0]
    np.testing.assert_allclose(filled, direct(image.double().numpy(), hole), rtol=0, atol=5e-5)


def test_filled_pixels_stay_within_what_is_known():
    image, hole = torch.rand(1, 1, 30, 30), torch.tensor(disc(30, 30, 12, 20, 9))[None]
    known = image[0, 0][~hole[0]]
    filled = fill(image, hole)
    assert known.min() - 1e-5 <= filled.min()
    assert filled.max() <= known.max() + 1e-5
    constant = fill(torch.where(hole[:, None], image, torch.tensor(0.25)), hole)
    torch.testing.assert_close(constant, torch.full_like(image, 0.25))


def test_nothing_to_fill_and_nothing_known():
    images = torch.rand(2, 3, 11, 13)
    holes = torch.zeros(2, 11, 13, dtype=torch.bool)
    assert fill(images, holes).equal(images)
    holes[1] = True
    filled = fill(images, holes)
    assert filled[0].equal(images[0])
    torch.testing.assert_close(filled[1], images[1].mean((1, 2), keepdim=True).expand(3, 11, 13))
    assert fill(images[:0], holes[:0]).shape == (0, 3, 11, 13)


def test_a_batch_equals_its_samples_and_what_is_not_finite_stays_where_it_is():
    images = torch.rand(4, 3, 24, 20)
    holes = torch.tensor(np.stack([disc(24, 20, 10, 8, radius) for radius in (0, 5, 9, 40)]))
    alone = torch.cat([fill(images[i : i + 1], holes[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(fill(images, holes), alone, rtol=0, atol=2e-5)
    spoiled = images.clone()
    spoiled[1, 0, 0, 0] = torch.nan
    found = fill(spoiled, holes)
    torch.testing.assert_close(found[[0, 2, 3]], alone[[0, 2, 3]], rtol=0, atol=2e-5)


def test_half_precision_and_autocast_compute_in_float32():
    images, holes = torch.rand(1, 3, 24, 20), torch.tensor(disc(24, 20, 10, 8, 7))[None]
    exact = fill(images, holes)
    half = fill(images.bfloat16(), holes)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, fill(images.bfloat16().float(), holes).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fill(images, holes).equal(exact)


class TestRoad:
    X = torch.tensor([[[[1.0, 2, 3], [4, 50, 6], [7, 8, 9]]]])
    HEAT = torch.tensor([[[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]])

    def run(self, heat=None, **options):
        options = dict(percentiles=(90,), noise=0, score="logit") | options
        return metrics.road(MODEL, self.X, self.HEAT if heat is None else heat, 0, **options)

    def test_by_hand(self):
        # Without the centre: (2 (2 + 4 + 6 + 8) + (1 + 3 + 7 + 9)) / 12 = 5 in its place, which is 45 less. With the
        # centre alone everything is 50: 450, which is 360 more.
        assert self.run(order="morf").values.tolist() == pytest.approx([-45])
        assert self.run(order="lerf").values.tolist() == pytest.approx([360])
        found = self.run()
        assert found.values.tolist() == pytest.approx([202.5])
        assert {name: part.tolist() for name, part in found.parts.items()} == {"morf": pytest.approx([-45]), "lerf": pytest.approx([360])}  # fmt: skip
        assert found.at.tolist() == pytest.approx([0.9])
        assert [self.run(order=order).better for order in ("combined", "morf", "lerf")] == ["higher", "lower", "higher"]

    def test_percentiles_between_ranks(self):
        # Heats 0 to 8 of nine pixels: the 30th percentile is 2.4, so those from 3 on go; reversed, those up to 5.6.
        heat = torch.arange(9.0).reshape(1, 3, 3)
        kept = fill(self.X, heat >= 2.4).sum(), fill(self.X, heat <= 5.6).sum()
        found = self.run(heat, percentiles=(30,))
        assert found.parts["morf"].tolist() == pytest.approx([float(kept[0]) - 90])
        assert found.parts["lerf"].tolist() == pytest.approx([float(kept[1]) - 90])

    def test_curves_are_by_percentile(self):
        heat = torch.rand(1, 3, 3)
        found = self.run(heat, percentiles=(20, 50, 80))
        assert found.curves.shape == (1, 3)
        for index, percentile in enumerate((20, 50, 80)):
            assert found.curves[0, index] == pytest.approx(
                float(self.run(heat, percentiles=(percentile,)).values), rel=1e-4
            )
        assert found.values.tolist() == pytest.approx(found.curves.mean(1).tolist())

    def test_a_constant_heatmap_is_worth_nothing(self):
        found = self.run(torch.ones(1, 3, 3))
        assert found.values.tolist() == pytest.approx([0], abs=1e-4)

    def test_noise_is_drawn_once_and_only_into_holes(self):
        found = [self.run(noise=0.5, order="morf", seed=seed).values.item() for seed in (0, 0, 1)]
        assert found[0] == found[1] != found[2]
        drawn = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0))[0, 1, 1] * 0.5
        assert found[0] == pytest.approx(-45 + float(drawn))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (dict(order="most"), r"order='most'; expected one of 'combined', 'morf', 'lerf'"),
            (dict(percentiles=()), r"percentiles=\(\); expected numbers between 0 and 100"),
            (dict(percentiles=(0,)), r"percentiles=\(0,\)"),
            (dict(percentiles=(50, 100)), r"percentiles=\(50, 100\)"),
            (dict(percentiles=3), r"percentiles=3"),
            (dict(noise=-1), r"noise=-1; expected a number of at least 0"),
            (dict(seed="a"), r"seed='a'; expected a whole number"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            self.run(**options)

    def test_the_order_of_samples_and_batches_does_not_matter(self):
        x, heat = torch.rand(3, 1, 12, 10), torch.rand(3, 12, 10)
        whole = metrics.road(MODEL, x, heat, 0)
        back = metrics.road(MODEL, x.flip(0), heat.flip(0), 0, batch_size=5)
        torch.testing.assert_close(whole.values, back.values.flip(0), rtol=0, atol=1e-5)
        assert metrics.road(MODEL, FOUR, FOUR[:, 0], 0).curves.shape == (1, 9)
