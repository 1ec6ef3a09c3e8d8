"""Timing rows for a scenario: what is not whole is not recorded, and one row is the fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from deblur_deploy.bench.entries import BenchEntry
from deblur_deploy.bench.measure import BenchConfig, BenchReport, measure
from deblur_deploy.bench.row import BenchRow
from deblur_deploy.core.errors import MissingDependencyError


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
