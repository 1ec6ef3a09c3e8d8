"""Progress where there is no terminal to draw a bar in: a line now and then, so that a log shows that work goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 10.0
"""Seconds between two lines."""

Say = Callable[[str], None]


class CountedProgress:
    """Lines such as ``pruning: 120/500, 2.1/s, 3:00 left``, at most one in :data:`EVERY_S` seconds.

    Args:
        say: Prints a line.
        title: What is being done.
        clock: Seconds; for tests.
    """

    def __init__(self, say: Say, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._title, self._clock = say, title, clock
        self._started = self._shown = clock()
        self._first: int | None = None

    def show(self, done: int, total: int, note: str = "") -> None:
        """Say how far the work is, if the last line is long enough ago.

        Args:
            done: Steps done, from 1. The first call's are not counted in the rate: a run may have gone on from there.
            total: Steps in all.
            note: What else there is to say.
        """
        now = self._clock()
        if self._first is None:
            self._first, self._started = done, now
        if now - self._shown < EVERY_S:
            return
        self._shown = now
        line = f"{self._title}: {done}/{total}"
        if done > self._first and now > self._started:
            rate = (done - self._first) / (now - self._started)
            line += f", {rate:.3g}/s, {_clock_time((total - done) / rate)} left"
        self._say(f"{line}, {note}" if note else line)


@contextmanager
def waiting_lines(say: Say, title: str, every_s: float = EVERY_S) -> Iterator[Callable[[str], None]]:
    """Say what is being done and for how long, every few seconds.

    Args:
        say: Prints a line.
        title: What is being done.
        every_s: Seconds between two lines.

    Yields:
        Called with what is being done now.
    """
    started, over, captions = time.monotonic(), threading.Event(), [""]

    def tell() -> None:
        while not over.wait(every_s):
            caption = f": {captions[-1]}" if captions[-1] else ""
            say(f"{title}{caption}, {_clock_time(time.monotonic() - started)} so far")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield lambda caption: captions.__setitem__(0, caption)
    finally:
        over.set()
        teller.join()


def _clock_time(seconds: float) -> str:
    """Minutes and seconds, such as ``2:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
