"""What a run of a scenario gives, what it is held against, and how its rows are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deblur_deploy.bench.entries import BenchEntry
from deblur_deploy.bench.measure import BenchConfig, BenchReport, measure
from deblur_deploy.bench.row import BenchRow
from deblur_deploy.core.errors import ConfigError, MissingDependencyError


@dataclass(frozen=True)
class Measurement:
    """What one run of a scenario found.

    Args:
        figure: The number that is held against the target.
        unit: ``s`` or ``×``.
        samples_ms: Every time taken, by what was timed; where windows were measured, one list for each.
        note: What else the table says.
        details: Whatever belongs to the figure.
        stable: Whether the windows of time agree, where there are windows.
    """

    figure: float
    unit: str
    samples_ms: dict[str, Any]
    note: str
    details: dict[str, Any]
    stable: bool = True


@dataclass(frozen=True)
class Target:
    """What the figure is held against: one of the two.

    Args:
        at_most: The largest figure that meets it.
        at_least: The smallest figure that meets it.
    """

    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ConfigError("a target needs one bound", hint="give at_most or at_least")

    def is_met(self, figure: float) -> bool:
        """Whether the figure is within the bound."""
        if self.at_most is not None:
            return figure <= self.at_most
        return figure >= (self.at_least or 0.0)

    def describe(self, unit: str) -> str:
        """The target in words, such as ``at most 2 s``."""
        bound, words = (self.at_most, "at most") if self.at_most is not None else (self.at_least, "at least")
        return f"{words} {bound:g}{spaced(unit)}"


def spaced(unit: str) -> str:
    """The unit as it follows a number: a word after a space, a sign at once."""
    return f" {unit}" if unit[0].isalpha() else unit


def time_rows(entries: Sequence[BenchEntry], config: BenchConfig) -> BenchReport:
    """Measure every row.

    Raises:
        KeyboardInterrupt: Ctrl-C; a scenario with half of its rows has no figure.
    """
    report = measure(entries, config)
    if report.interrupted:
        raise KeyboardInterrupt
    return report


def median_ms(row: BenchRow) -> float | None:
    """Median latency of a row, or None where it was not measured."""
    return row.latency_ms.median if row.latency_ms else None


def fastest_row(rows: Sequence[BenchRow]) -> BenchRow:
    """The row that is the most times as fast as the baseline.

    Raises:
        MissingDependencyError: None could be compared; the message says why.
    """
    compared = [row for row in rows if row.ratio is not None]
    if not compared:
        reasons = "; ".join(f"{row.runtime}: {row.skipped}" for row in rows if row.skipped)
        raise MissingDependencyError(
            f"there is nothing to compare: {reasons or 'no row has a figure'}", hint="install the extra `demo`"
        )
    return max(compared, key=lambda row: row.ratio or 0.0)


def milliseconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000
