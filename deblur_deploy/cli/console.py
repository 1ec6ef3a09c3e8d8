"""What commands print: text and tables for people, one JSON object for programs.

Without a terminal to draw a progress bar in, a line now and then shows in the log that work goes on.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.plain_data import without_infinity
from deblur_deploy.core.sources import describe, resolve_source
from deblur_deploy.core.units import format_bytes as format_bytes

EVERY_S = 10.0
"""Seconds between two lines."""

Say = Callable[[str], None]

_PIPE_WIDTH = 200
"""Columns where there is no terminal: a log should not cut tables off at 80."""


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
        """Say how far the work is, if the last line was long enough ago.

        Args:
            done: Steps done, from 1. The first call's are not counted in the rate: a run may have resumed there.
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


_kept: list[TextIO] = []
"""stdout, while it is kept for the result."""


def keep_stdout() -> TextIO:
    """Keep stdout, which this gives, for a command's result, until :func:`release_stdout`.

    What anything else prints, such as a user's network, goes to stderr.
    """
    _kept.append(sys.stdout)
    sys.stdout = sys.stderr
    return _kept[-1]


def release_stdout() -> None:
    """Put stdout back, if it was kept."""
    while _kept:
        sys.stdout = _kept.pop()


class Output:
    """Printer of one command.

    Args:
        as_json: Keep stdout for one JSON object and send everything for people to stderr.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, emoji=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = _PIPE_WIDTH

    def say(self, text: str) -> None:
        """Print a line for people."""
        self.console.print(text, markup=False)

    def source(self, source: Path | None, runs: Path, fits: Callable[[Artifact], bool]) -> Artifact:
        """Find the artifact to work on, and say which it is and why it was taken."""
        artifact, reason = resolve_source(source, runs, fits)
        self.say(f"source    {artifact.directory} ({describe(artifact)}; {reason})")
        return artifact

    def wrote(self, artifact: Artifact) -> None:
        """Say which artifact was written, or give it as JSON."""
        size = artifact.path.stat().st_size
        self.say(f"wrote     {artifact.path} ({format_bytes(size)}, sha256 {artifact.sha256[:12]})")
        self.emit(
            {
                "artifact": str(artifact.directory),
                "kind": artifact.kind,
                "stage": artifact.stage,
                "sha256": artifact.sha256,
                "figures": artifact.figures,
            }
        )

    def emit(self, result: dict[str, Any]) -> None:
        """Print the command's JSON object, if that is what was asked for."""
        if self.as_json:
            text = json.dumps(without_infinity(result, nan_too=True), allow_nan=False)
            print(text, file=_kept[0] if _kept else sys.stdout)

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; every column but the first is right-aligned."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for index, heading in enumerate(headings):
            table.add_column(heading, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self.console.print(table, markup=False, soft_wrap=True)

    @contextmanager
    def tuning(self, title: str) -> Iterator[Callable[[int, int, float], None]]:
        """A progress bar for fine-tuning; a line now and then where there is no terminal."""
        if not self.console.is_terminal:
            lines = CountedProgress(self.say, title)
            yield lambda step, steps, loss: lines.show(step, steps, f"loss {loss:.4f}")
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=None, loss=0.0)
            yield lambda step, steps, loss: progress.update(task, completed=step, total=steps, loss=loss)

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar for work on so many images; a line now and then where there is no terminal."""
        if not self.console.is_terminal:
            lines = CountedProgress(self.say, title)
            yield lambda done: lines.show(done, total)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total, rate="")

            def show(done: int) -> None:
                elapsed = progress.tasks[task].elapsed
                progress.update(task, completed=done, rate=f"{done / elapsed:.2f}/s" if elapsed else "")

            yield show

    @contextmanager
    def waiting(self, title: str) -> Iterator[Callable[[str], None]]:
        """A spinner with a changing caption; a line now and then where there is no terminal."""
        if not self.console.is_terminal:
            with waiting_lines(self.say, title) as show:
                yield show
            return
        with self.console.status(escape(title)) as status:
            yield lambda caption: status.update(escape(f"{title}: {caption}"))
