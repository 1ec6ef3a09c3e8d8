"""Benchmark results in files: JSONL with every sample and the machine, CSV and Markdown rendered from the same rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deblur_deploy.bench.measure import BenchReport
from deblur_deploy.bench.stream import StreamRow
from deblur_deploy.core.bench_rows import Record, read_rows
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.files import write_text
from deblur_deploy.core.markdown_table import table

_COLUMNS: Mapping[str, str] = {
    "artifact": "artifact",
    "runtime": "runtime",
    "res": "res",
    "batch": "batch",
    "cuda_graph": "CUDA graph",
    "transfers": "transfers",
    "spin_wait": "spin wait",
    "median_ms": "median ms",
    "p90_ms": "p90 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "gpu_compute_ms": "GPU ms",
    "throughput_fps": "fps",
    "ratio": "x baseline",
    "ratio_low": "95 % low",
    "ratio_high": "95 % high",
    "over_floor": "x floor",
    "host_mib": "host MiB",
    "device_mib": "device MiB",
    "joules_per_frame": "J/frame",
    "stable": "stable",
    "skipped": "skipped",
}
"""Columns of CSV files, with their headings in Markdown."""


def report_records(report: BenchReport) -> list[Record]:
    """One record for each row, with the facts of the machine."""
    baseline = report.as_json()["baseline"]
    return [row.as_record() | {"baseline": baseline, "device": report.device} for row in report.rows]


def stream_records(rows: Sequence[StreamRow], device: Mapping[str, Any]) -> list[Record]:
    """One record for each stream; they have ``stream_fps``, which rows of latencies lack."""
    return [row.as_record() | {"device": dict(device)} for row in rows]


def write_jsonl(records: Sequence[Record], path: Path) -> None:
    """Write one line for each record.

    Raises:
        ArtifactError: The file cannot be written.
    """
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_jsonl(path: Path) -> list[Record]:
    """The rows of latencies in a file that :func:`write_jsonl` wrote.

    Raises:
        ArtifactError: There is no such file, or a line is damaged, or there is no row of latencies.
    """
    records = read_rows(path)
    if not records:
        raise ArtifactError(f"{path} holds no latencies", hint="give a file from `bench --save`")
    return records


def as_csv(records: Sequence[Record]) -> str:
    """Rows of latencies as CSV, one line each after the names of the columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for record in records:
        writer.writerow(_cells(record).values())
    return text.getvalue()


def as_markdown(records: Sequence[Record]) -> str:
    """Rows of latencies as a Markdown table, without the columns in which no row has anything."""
    cells = [{name: _shown(value) for name, value in _cells(record).items()} for record in records]
    used = [name for name in _COLUMNS if any(row[name] for row in cells)]
    lines = table([_COLUMNS[name] for name in used], ([row[name] for name in used] for row in cells))
    return "\n".join(lines) + "\n"


def _cells(record: Record) -> dict[str, Any]:
    """What a record has for each column."""
    latency, (low, high) = record["latency_ms"] or {}, record.get("ratio_ci") or (None, None)
    memory, settings = record.get("memory_mib", {}), record.get("settings", {})
    given = {
        **{name: settings.get(name) for name in ("cuda_graph", "transfers", "spin_wait")},
        "gpu_compute_ms": record.get("metrics", {}).get("GPU Compute Time", {}).get("median"),
        **{f"{name}_ms": latency.get(name) for name in ("median", "p90", "p95", "p99")},
        **{"ratio_low": low, "ratio_high": high},
        **{f"{place}_mib": memory.get(place) for place in ("host", "device")},
    }
    needed = ("artifact", "runtime", "res", "stable", "skipped")
    return {
        name: given[name] if name in given else record[name] if name in needed else record.get(name)
        for name in _COLUMNS
    }


def _shown(value: Any) -> str:
    """A cell of a Markdown table."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:.2f}" if isinstance(value, float) else str(value)
