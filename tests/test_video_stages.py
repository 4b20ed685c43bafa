"""Stages overlap, keep order, carry errors on, and end when they are left."""

import threading
import time

import pytest
import torch

from camfast.video.stages import Ahead, Busy, Sink, Workers


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Source:
    """Numbers, that tell how many were taken and whether they were closed."""

    def __init__(self, count=1000, error_at=None):
        self.taken, self.closed, self.count, self.error_at = 0, False, count, error_at

    def __iter__(self):
        try:
            for number in range(self.count):
                if number == self.error_at:
                    raise KeyError("in the source")
                self.taken += 1
                yield number
        finally:
            self.closed = True


def eventually(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def put_all(sink, items):
    for item in items:
        sink.put(item)


class TestAhead:
    def test_order(self):
        with Ahead(range(100), 3) as items:
            assert list(items) == list(range(100))

    def test_it_runs_ahead_but_not_far(self):
        source = Source()
        with Ahead(source, 3) as items:
            iterator = iter(items)
            assert next(iterator) == 0
            eventually(lambda: source.taken == 5)  # one given, three waiting, one that has no room
            time.sleep(0.05)
            assert source.taken == 5

    def test_left_early_it_closes_the_source(self):
        source = Source()
        with Ahead(source, 3) as items:
            for number in items:
                if number == 10:
                    break
        assert source.closed

    def test_never_started(self):
        source = Source()
        with Ahead(source, 3):
            pass
        assert source.taken == 0

    def test_an_error_comes_after_the_items_before_it(self):
        got = []
        with Ahead(Source(error_at=5), 2) as items, pytest.raises(KeyError, match="in the source"):
            got.extend(items)
        assert got == [0, 1, 2, 3, 4]


class TestSink:
    def test_order(self):
        got = []
        with Sink(got.append, 3) as sink:
            for number in range(100):
                sink.put(number)
            sink.finish()
        assert got == list(range(100))

    def test_an_error_comes_out_of_put(self):
        def fail(number):
            if number == 2:
                raise KeyError("in the sink")

        with Sink(fail, 1) as sink, pytest.raises(KeyError, match="in the sink"):
            put_all(sink, range(1000))

    def test_an_error_of_the_last_item_comes_out_of_finish(self):
        def fail(number):
            raise KeyError("in the sink")

        with Sink(fail, 5) as sink:
            sink.put(0)
            with pytest.raises(KeyError, match="in the sink"):
                sink.finish()

    def test_left_early_it_lets_go_of_what_waits(self):
        begun, go_on, done = threading.Event(), threading.Event(), []

        def slow(number):
            begun.set()
            go_on.wait()
            done.append(number)

        with Sink(slow, 5) as sink:
            for number in range(5):
                sink.put(number)
            begun.wait()
            sink._left.set()
            go_on.set()
        assert done == [0]


class TestWorkers:
    def test_order_whoever_is_faster(self):
        def slow_when_even(number):
            time.sleep(0.01 * (number % 2 == 0))
            return number * number

        with Workers(3) as workers:
            assert list(workers.map(slow_when_even, range(20))) == [n * n for n in range(20)]

    def test_no_more_is_taken_than_is_worked_on(self):
        source = Source()
        with Workers(2) as workers:
            results = workers.map(lambda number: number, source)
            assert next(results) == 0
            assert source.taken == 3

    def test_an_error_comes_in_its_turn(self):
        def fail(number):
            if number == 3:
                raise KeyError("in a worker")
            return number

        got = []
        with Workers(2) as workers, pytest.raises(KeyError, match="in a worker"):
            got.extend(workers.map(fail, range(10)))
        assert got == [0, 1, 2]

    @pytest.mark.parametrize("count", [1, 2])
    def test_several_have_one_core_each(self, count):
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            with Workers(count) as workers:
                seen = list(workers.map(lambda _: torch.get_num_threads(), range(4)))
            assert seen == [1 if count > 1 else 3] * 4
            assert torch.get_num_threads() == 3
            with Workers(1) as workers:
                assert list(workers.map(lambda _: torch.get_num_threads(), range(1))) == [3]
        finally:
            torch.set_num_threads(before)


def test_busy_counts_only_work():
    busy = Busy()
    with busy.working():
        time.sleep(0.02)
    time.sleep(0.05)
    assert 0.02 <= busy.seconds < 0.05
