"""Stages of a pipeline: each in a thread of its own, joined by queues of bounded length, errors carried on."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE = 0.1
"""Seconds after which a waiting thread looks whether it is still needed."""


class Busy:
    """How long a stage worked, as opposed to waiting for its neighbours."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts the time of a block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - begin


class _End:
    """What comes after the last item: an error, or nothing."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Runs an iterable in a thread, some items ahead of its consumer. Use it as a context manager.

    What the iterable raises, the consumer gets after the items before it. Leaving the block ends the thread, and
    closes the iterable there.
    """

    def __init__(self, items: Iterable[T], ahead: int) -> None:
        self.busy = Busy()
        self._items = items
        self._queue: queue.Queue[T | _End] = queue.Queue(ahead)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camfast reader", daemon=True)
        self._started = False

    def __iter__(self) -> Iterator[T]:
        if not self._started:
            self._started = True
            self._thread.start()
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def _run(self) -> None:
        end = _End()
        iterator = iter(self._items)
        try:
            _one_core()
            while not self._left.is_set():
                try:
                    with self.busy.working():
                        item = next(iterator)
                except StopIteration:
                    break
                self._put(item)
        except BaseException as error:
            end = _End(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: T | _End) -> None:
        while not self._left.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE)
                return
            except queue.Full:
                pass

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._started:
            self._thread.join()


class Sink(Generic[T]):
    """Does something with each item, in order, in a thread. Use it as a context manager.

    What it raises comes out of the next :meth:`put`, or of :meth:`finish`. Leaving the block without
    :meth:`finish` lets go of what still waits.
    """

    def __init__(self, do: Callable[[T], None], ahead: int) -> None:
        self.busy = Busy()
        self._do = do
        self._queue: queue.Queue[T | _End] = queue.Queue(ahead)
        self._left = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="camfast writer", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hands an item over; waits where too many are waiting."""
        self._put(item)

    def finish(self) -> None:
        """Waits until every item is done."""
        self._put(_End())
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _put(self, item: T | _End) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(item, timeout=_PATIENCE)
                return
            except queue.Full:
                pass

    def _run(self) -> None:
        try:
            _one_core()
            while not self._left.is_set():
                try:
                    item = self._queue.get(timeout=_PATIENCE)
                except queue.Empty:
                    continue
                if isinstance(item, _End):
                    return
                with self.busy.working():
                    self._do(item)
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Sink[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()


class Workers:
    """Threads that map items to results, in order. Use it as a context manager.

    Args:
        count: how many threads. Several have one core each, without the barriers at which threads wait for each other;
            one alone uses all.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.busy = Busy()
        self._pool = ThreadPoolExecutor(count, "camfast model", initializer=_one_core if count > 1 else None)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results, in the order of the items, of which no more than one waits beside those at work."""

        def work(item: T) -> R:
            with self.busy.working():
                return function(item)

        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) > self.count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


_settings = threading.Lock()


def _one_core() -> None:
    """Makes operators that this thread calls run in it alone; other threads keep what they have."""
    with _settings:  # PyTorch's setting is that of the thread, and of threads that have none yet
        others = torch.get_num_threads()
        torch.set_num_threads(1)
        _restore(others)


def _restore(count: int) -> None:
    thread = threading.Thread(target=torch.set_num_threads, args=(count,))
    thread.start()
    thread.join()
