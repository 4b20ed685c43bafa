"""Ranges of maps as they are drawn; heat over time."""

from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camfast import reference
from camfast.video.heat import Heat, drawn_ranges, mixed
from camfast.video.moment import ClassScore, Moment
from camfast.video.over_time import filled_in, smoothed, warm_up
from camfast.video.reader import Frame
from camfast.video.timing import at_rate

NAN = Heat(torch.zeros(1, 2), torch.tensor([torch.nan, torch.nan]))


def heat(*values, low=0.0, high=1.0):
    return Heat(torch.tensor([values]), torch.tensor([low, high]))


def moment(pts, own=None, name=None):
    classes = () if name is None else (ClassScore(0, name, 1.0),)
    return Moment(Frame(None, pts, 1), pts, None, own, classes)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**31))
def test_ranges_are_those_of_the_enlarged_map(h, w, height, width, seed):
    maps = torch.randn(2, h, w, generator=torch.Generator().manual_seed(seed))
    _, expected = reference.cam(
        maps[:, None].double(), weights=torch.ones(2, 1), size=(height, width), relu=False, normalize=False
    )
    torch.testing.assert_close(drawn_ranges(maps, height, width), expected.float(), rtol=0, atol=1e-5)


class TestSmoothing:
    def test_an_average_of_maps_and_ranges(self):
        items = [moment(0, heat(0.0, 4.0, high=4.0)), moment(1, heat(8.0, 0.0, high=8.0))]
        first, second = smoothed(items, 0.75)
        assert first.heat.map.tolist() == [[0.0, 4.0]]
        assert second.heat.map.tolist() == [[2.0, 3.0]]
        assert second.heat.ranges.tolist() == [0.0, 5.0]

    def test_none(self):
        items = [moment(0, heat(0.0, 4.0)), moment(1, heat(8.0, 0.0))]
        assert [item.heat.map.tolist() for item in smoothed(items, 0)] == [[[0.0, 4.0]], [[8.0, 0.0]]]

    def test_what_is_not_finite_begins_anew(self):
        items = [moment(0, heat(4.0, 4.0)), moment(1, NAN), moment(2, heat(8.0, 0.0))]
        got = list(smoothed(items, 0.5))
        assert not got[1].heat.finite
        assert got[2].heat.map.tolist() == [[8.0, 0.0]]

    def test_frames_that_were_not_explained_and_others_pass(self):
        items = [moment(0), "packet", moment(1, heat(1.0, 1.0))]
        assert list(smoothed(items, 0.5))[:2] == items[:2]

    def test_how_long_it_remembers(self):
        assert warm_up(0, 1) == 0
        assert warm_up(0, 4) == 3  # the explained one before any frame is among them
        assert 0.7 ** warm_up(0.7, 1) <= 0.01 < 0.7 ** (warm_up(0.7, 1) - 1)


class TestBetween:
    ITEMS = (
        moment(0),
        moment(10, heat(0.0, 8.0), "cat"),
        moment(12),
        "packet",
        moment(18),
        moment(20, heat(8.0, 0.0, high=3.0), "dog"),
        moment(25),
    )

    def test_interpolated_by_time(self):
        got = [item for item in filled_in(self.ITEMS, "interpolate") if isinstance(item, Moment)]
        assert [item.frame.pts for item in got] == [0, 10, 12, 18, 20, 25]
        maps = torch.stack([item.heat.map[0] for item in got])
        torch.testing.assert_close(maps[:, 0], torch.tensor([0.0, 0.0, 1.6, 6.4, 8.0, 8.0]))
        assert [round(float(item.heat.ranges[1]), 4) for item in got] == [1, 1, 1.4, 2.6, 3, 3]
        assert [item.classes[0].name for item in got] == ["cat", "cat", "cat", "cat", "dog", "dog"]

    def test_held(self):
        got = [item for item in filled_in(self.ITEMS, "hold") if isinstance(item, Moment)]
        assert [item.heat.map[0, 0].item() for item in got] == [0, 0, 0, 0, 8, 8]

    def test_others_pass_at_once(self):
        assert next(iter(filled_in([moment(0), "packet", moment(1, heat(1.0))], "interpolate"))) == "packet"

    def test_nothing_explained(self):
        items = [moment(0), moment(1)]
        assert list(filled_in(items, "interpolate")) == items

    def test_a_map_that_is_not_finite_is_not_mixed(self):
        assert mixed(NAN, heat(1.0, 1.0), 0.5) is NAN
        assert mixed(heat(1.0, 1.0), NAN, 0.5).map.tolist() == [[1.0, 1.0]]


class TestRate:
    @staticmethod
    def ticks(pts, rate, time_base=Fraction(1, 100)):
        frames = [Frame(number, time, 4) for number, time in enumerate(pts)]
        return [(frame.picture, frame.pts) for frame in at_rate(frames, Fraction(rate), time_base)]

    def test_the_same_rate(self):
        assert self.ticks([0, 4, 8, 12], 25) == [(0, 0), (1, 1), (2, 2), (3, 3)]

    def test_fewer(self):
        assert self.ticks([0, 4, 8, 12, 16], Fraction(25, 2)) == [(0, 0), (2, 1), (4, 2)]

    def test_rounded_time_stamps(self):
        assert self.ticks([0, 33, 67, 100, 133], 30, Fraction(1, 1000)) == [(n, n) for n in range(5)]

    def test_more_show_frames_again(self):
        assert self.ticks([0, 4], 50) == [(0, 0), (0, 1), (1, 2), (1, 3)]

    def test_a_gap_is_filled(self):
        assert self.ticks([0, 16, 20], 25) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 4), (2, 5)]

    def test_a_start_that_is_not_zero(self):
        assert self.ticks([400, 404], 25) == [(0, 100), (1, 101)]
        assert self.ticks([-8, -4, 0], 25) == [(0, -2), (1, -1), (2, 0)]

    def test_what_is_no_frame_passes(self):
        frames = [Frame(0, 0, 4), "packet", Frame(1, 4, 4)]
        assert [frame for frame in at_rate(frames, Fraction(25), Fraction(1, 100)) if frame == "packet"] == ["packet"]
