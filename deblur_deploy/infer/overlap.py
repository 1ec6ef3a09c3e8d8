"""Three things at once: the next item is read and the last one written while the network works on this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

_POLL_SECONDS = 0.1


class _Channel(Generic[T]):
    """A queue of one item that can be closed; nobody blocks on it after a failure."""

    def __init__(self, stop: threading.Event) -> None:
        self._items: queue.Queue[tuple[T] | None] = queue.Queue(1)
        self._stop = stop

    def put(self, item: tuple[T] | None) -> None:
        """Hand on a value, or None at the end; dropped after a failure."""
        while not self._stop.is_set():
            try:
                return self._items.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
        return None

    def get(self) -> tuple[T] | None:
        """The next value, or None at the end or after a failure."""
        while not self._stop.is_set():
            try:
                return self._items.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
        return None


def overlap(
    items: Iterable[A],
    transform: Callable[[A], B],
    consume: Callable[[B], None],
    stop: threading.Event | None = None,
) -> None:
    """Read, transform and write a stream of items in order, three at a time; the caller's thread transforms.

    What was read before reading failed is still transformed and written.

    Args:
        items: Iterated in a thread that reads ahead.
        transform: Called in the caller's thread.
        consume: Called in a thread that writes.
        stop: Set when one of the three failed, for an iterator that waits for something to watch.

    Raises:
        BaseException: Whatever one of the three raised first. The others have then ended.
    """
    stop = stop or threading.Event()
    read: _Channel[A] = _Channel(stop)
    written: _Channel[B] = _Channel(stop)
    failures: list[BaseException] = []

    def read_all() -> None:
        try:
            for item in items:
                read.put((item,))
                if stop.is_set():
                    return
        except BaseException as err:  # raised in the caller's thread, once what came before it has gone through
            failures.append(err)
        read.put(None)

    def write_all() -> None:
        while (item := written.get()) is not None:
            consume(item[0])

    reader, writer = (_start(work, stop, failures) for work in (read_all, write_all))
    try:
        while (item := read.get()) is not None:
            written.put((transform(item[0]),))
        written.put(None)
        writer.join()
    finally:
        stop.set()
        reader.join()
        writer.join()
    if failures:
        raise failures[0]


def _start(work: Callable[[], None], stop: threading.Event, failures: list[BaseException]) -> threading.Thread:
    """Run something in a thread; what it raises is kept for the caller's thread, and everything stops."""

    def run() -> None:
        try:
            work()
        except BaseException as err:
            failures.append(err)
            stop.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
