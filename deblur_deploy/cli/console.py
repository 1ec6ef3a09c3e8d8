"""What commands print: text and tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.sources import describe, resolve_source
from deblur_deploy.core.units import format_bytes as format_bytes

_PIPE_WIDTH = 200
"""Columns where there is no terminal to ask: a log should not cut tables off at 80."""


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
            print(json.dumps(_without_nan(result), allow_nan=False))

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
        """A progress bar for fine-tuning; quiet where there is no terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True) as progress:
            task = progress.add_task(title, total=None, loss=0.0)
            yield lambda step, steps, loss: progress.update(task, completed=step, total=steps, loss=loss)

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar for work on so many images; quiet where there is no terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True) as progress:
            task = progress.add_task(title, total=total, rate="")

            def show(done: int) -> None:
                elapsed = progress.tasks[task].elapsed
                progress.update(task, completed=done, rate=f"{done / elapsed:.2f}/s" if elapsed else "")

            yield show

    @contextmanager
    def waiting(self, title: str) -> Iterator[Callable[[str], None]]:
        """A spinner with a changing caption; quiet where there is no terminal."""
        if not self.console.is_terminal:
            yield lambda caption: None
            return
        with self.console.status(title) as status:
            yield lambda caption: status.update(f"{title}: {caption}")


def _without_nan(value: Any) -> Any:
    """The value with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
