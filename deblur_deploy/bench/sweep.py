"""The same rows over batch sizes and resolutions, and the law by which time grows with the picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from deblur_deploy.bench.entries import BenchEntry, Selection, entries_of
from deblur_deploy.bench.measure import BenchConfig, BenchReport, OnWindow, measure
from deblur_deploy.bench.row import BenchRow
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import DeblurDeployError
from deblur_deploy.core.images import Resolution, parse_resolution
from deblur_deploy.runtime.runtimes import RUNTIMES

SWEEP = tuple(map(parse_resolution, ("320x180", "480x270", "640x360", "960x540", "1280x720", "1600x900", "1920x1080")))
"""Sizes of a sweep."""


@dataclass(frozen=True)
class ScalingLaw:
    """Time against the number of pixels: ``ms = ms_per_mp * megapixels ** exponent``.

    Args:
        artifact: What the rows are called.
        runtime: What they ran on.
        ms_per_mp: Time of a picture of one megapixel.
        exponent: 1 where time grows as the number of pixels does; less where there is a fixed cost.
        r_squared: Share of the variance of log time that the law explains.
        sizes: Number of resolutions that it was fitted to.
        transfers: Whether the time includes the copies of the pictures.
    """

    artifact: str
    runtime: str
    ms_per_mp: float
    exponent: float
    r_squared: float
    sizes: int
    transfers: bool = True


def measure_batches(
    entries: Sequence[BenchEntry], config: BenchConfig, sizes: Sequence[int], on_window: OnWindow | None = None
) -> BenchReport:
    """Measure all rows in batches of every size; ratios are within a size.

    Raises:
        ConfigError: There are no entries, or a size is below 1.
    """
    configs = [dataclasses.replace(config, batch=size) for size in sizes]
    return _in_turn([partial(measure, entries, one, on_window) for one in configs])


def measure_sweep(
    contenders: Sequence[tuple[Artifact, str | None]],
    config: BenchConfig,
    workspace: Path,
    selection: Selection | None = None,
    on_window: OnWindow | None = None,
) -> BenchReport:
    """Measure at every size of :data:`SWEEP`; ratios are within a size.

    A checkpoint runs in PyTorch at any size, and is exported to ONNX at each for the runtimes that take that. A graph
    of a fixed size is measured at that one; its rows at the others say so.

    Args:
        contenders: Artifacts, each with the name of its rows where that is not its directory.
        config: How long to measure.
        workspace: Folder for the exported graphs.
        selection: Which rows of each; by default those that are measured by default.
        on_window: For showing progress.
    """

    def measure_at(size: Resolution) -> BenchReport:
        rows = (_entries_at(contender, size, workspace, selection or Selection()) for contender in contenders)
        entries = [entry for row in rows for entry in row]
        return measure(entries, dataclasses.replace(config, resolution=size), on_window)

    return _in_turn([partial(measure_at, size) for size in SWEEP])


def fit_scaling(rows: Iterable[BenchRow]) -> list[ScalingLaw]:
    """Fit a power law to every artifact and runtime that was measured at three sizes or more, by least squares in logs.

    Args:
        rows: Rows of a sweep; those that were skipped are ignored.
    """
    points: dict[tuple[str, str, bool], list[tuple[float, float]]] = {}
    for row in rows:
        if row.latency_ms:
            size = parse_resolution(row.res)
            megapixels = size.width * size.height / 1e6
            key = (row.artifact, row.runtime, row.transfers)
            points.setdefault(key, []).append((megapixels, row.latency_ms.median))
    laws = []
    for (artifact, runtime, transfers), found in points.items():
        if len(found) >= 3:
            x, y = np.log(np.array(found)).T
            exponent, intercept = np.polyfit(x, y, 1)
            unexplained = float(np.sum((y - exponent * x - intercept) ** 2))
            total = float(np.sum((y - y.mean()) ** 2))
            r_squared = 1 - unexplained / total if total else 1.0
            ms_per_mp = float(np.exp(intercept))
            laws.append(ScalingLaw(artifact, runtime, ms_per_mp, float(exponent), r_squared, len(found), transfers))
    return laws


def _entries_at(
    contender: tuple[Artifact, str | None], size: Resolution, workspace: Path, selection: Selection
) -> list[BenchEntry]:
    """All rows of an artifact at one size."""
    artifact, label = contender
    own, chosen = entries_of(artifact, label, selection), selection.runtimes
    on_graphs = [name for name, row in RUNTIMES.items() if row.kind == "onnx" and (not chosen or name in chosen)]
    if artifact.kind != "checkpoint" or not on_graphs:
        return own
    name = f"{label or artifact.directory.name} as ONNX"
    try:
        graph = _export(artifact, size, workspace / f"{artifact.sha256[:12]}-{size}")
    except DeblurDeployError as err:
        reason = f"{err.message}; {err.hint}"
        return [*own, *(BenchEntry(artifact, runtime, name, reason) for runtime in on_graphs)]
    return [*own, *entries_of(graph, name, selection)]


def _export(artifact: Artifact, size: Resolution, out: Path) -> Artifact:
    from deblur_deploy.export.to_onnx import export_onnx

    return export_onnx(artifact, ExportConfig(size.width, size.height, evaluate=False), out)


def _in_turn(measurements: Iterable[Callable[[], BenchReport]]) -> BenchReport:
    """Several measurements as one report. Ctrl-C ends it with what there is, unless there is nothing."""
    reports: list[BenchReport] = []
    interrupted = False
    for measure_next in measurements:
        try:
            reports.append(measure_next())
            interrupted = reports[-1].interrupted
        except KeyboardInterrupt:  # between two measurements, while a graph was exported
            if not reports:
                raise
            interrupted = True
        if interrupted:
            break
    first, last = reports[0], reports[-1]
    hashes = {name: sha256 for report in reports for name, sha256 in report.device["artifacts"].items()}
    return BenchReport(
        first.device | {"after": last.device["after"], "artifacts": hashes},
        tuple(row for report in reports for row in report.rows),
        interrupted,
        tuple(entry for report in reports for entry in report.entries),
    )
