"""A report's rows compared with the machine's limits."""

from __future__ import annotations

import dataclasses

from deblur_deploy.bench.ceilings import Ceilings, measure_cpu_ceilings, measure_gpu_ceilings
from deblur_deploy.bench.entries import BenchEntry
from deblur_deploy.bench.floor import network_floor
from deblur_deploy.bench.measure import BenchConfig, BenchReport
from deblur_deploy.core.images import parse_resolution
from deblur_deploy.core.threads import default_threads
from deblur_deploy.runtime.runtimes import RUNTIMES

_PROBE_SECONDS = 2.0


def add_floors(report: BenchReport, config: BenchConfig) -> BenchReport:
    """Probe the machine, and give every row that was measured its floor.

    Args:
        report: What was measured; the payloads of its artifacts are still there.
        config: How it was measured; the probes take no longer than a row.

    Returns:
        The report with ``floor`` and ``over_floor`` in its rows, and ``ceilings`` among the facts of the device.
    """
    seconds = min(_PROBE_SECONDS, config.duration_ms / 1000)
    pairs = list(zip(report.entries, report.rows, strict=True))
    places = {_place(entry) for entry, row in pairs if row.latency_ms}
    probed: dict[str, Ceilings | None] = {
        "cpu": measure_cpu_ceilings(config.threads or default_threads(), seconds) if "cpu" in places else None,
        "gpu": measure_gpu_ceilings(seconds) if "gpu" in places else None,
    }
    rows = []
    for entry, row in pairs:
        ceilings = probed[_place(entry)]
        if row.latency_ms and ceilings:
            frame = parse_resolution(row.res), row.batch
            row = row.over(network_floor(entry.artifact, entry.runtime, frame, ceilings))
        rows.append(row)
    facts = {place: dataclasses.asdict(found) for place, found in probed.items() if found}
    return dataclasses.replace(report, rows=tuple(rows), device=report.device | {"ceilings": facts})


def _place(entry: BenchEntry) -> str:
    return "gpu" if RUNTIMES[entry.runtime].needs_gpu else "cpu"
