"""Recorded latencies of a run, separately for each machine and frame size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deblur_deploy.core.bench_rows import Record, batch_of, has_transfers, read_rows
from deblur_deploy.report.stages import ReportStage

PERCENTILES = ("median", "p90", "p95", "p99")


@dataclass(frozen=True)
class Timing:
    """Latency of one network on one runtime.

    Args:
        label: The stage's label, or the name of the artifact's directory where it is not a stage of the run.
        stage: The stage, or None.
        runtime: What it ran on.
        latency_ms: Milliseconds by name in ``PERCENTILES``.
        stable: Whether the windows of the measurement agreed.
    """

    label: str
    stage: ReportStage | None
    runtime: str
    latency_ms: dict[str, float]
    stable: bool

    @property
    def name(self) -> str:
        """Network and runtime in a few words."""
        return f"{self.label} · {self.runtime}"

    @property
    def median(self) -> float:
        """Median latency in ms."""
        return self.latency_ms["median"]


@dataclass(frozen=True)
class Session:
    """What was measured on one machine with one frame size: rows that may be compared.

    Args:
        device: The machine in a few words.
        res: Size of the frame, WIDTHxHEIGHT.
        rows: By stage, in the order of the report.
        skipped: Network and runtime, and why there is no figure.
        libraries: Versions that were measured.
    """

    device: str
    res: str
    rows: tuple[Timing, ...]
    skipped: tuple[tuple[str, str], ...]
    libraries: dict[str, str]


def read_sessions(run: Path, stages: Sequence[ReportStage]) -> tuple[Session, ...]:
    """Read every file of samples that ``bench`` left below a directory.

    Args:
        run: Directory of the run.
        stages: Its stages, which rows are matched with by hash.

    Returns:
        One session for each machine (processor, GPU, cores, threads) and frame size. Of several measurements of one
        network on one runtime the latest counts. Rows of several frames in one inference, and of frames that never
        leave the GPU, are left out, because their time is not the latency of a frame.

    Raises:
        ArtifactError: A file of samples is damaged; it is named.
    """
    files = sorted(run.rglob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, str(path)))
    sessions: dict[tuple[str, str], dict[tuple[str, str], Record]] = {}
    rows = (row for path in files for row in read_rows(path))
    for row in (row for row in rows if batch_of(row) == 1 and has_transfers(row)):
        session = sessions.setdefault((device_name(row["device"]), row["res"]), {})
        session[row["sha256"] or row["artifact"], row["runtime"]] = row
    return tuple(_session(key, rows.values(), stages) for key, rows in sessions.items())


def device_name(device: dict[str, Any]) -> str:
    """A machine in a few words: what makes two machines, or two settings of one, incomparable."""
    gpu = device.get("gpu")
    name = gpu.get("name") if isinstance(gpu, dict) else gpu
    parts = [str(device.get("cpu", "unknown processor")), f"{device.get('cores', '?')} cores"]
    if device.get("threads") not in (None, device.get("cores")):
        parts.append(f"{device['threads']} thread{'s' if device['threads'] != 1 else ''}")
    return ", ".join([*parts, *([str(name)] if name else [])])


def _session(key: tuple[str, str], rows: Iterable[Record], stages: Sequence[ReportStage]) -> Session:
    order = {stage.label: index for index, stage in enumerate(stages)}
    timings, skipped, libraries = [], [], {}
    for row in rows:
        stage = next((stage for stage in stages if row["sha256"] in stage.hashes), None)
        label = stage.label if stage else Path(row["artifact"]).name
        libraries = row["device"].get("libraries", {})
        latency = row["latency_ms"]
        if latency is None:
            skipped.append((f"{label} · {row['runtime']}", str(row.get("skipped") or "not measured")))
        else:
            figures = {name: float(latency[name]) for name in PERCENTILES if latency.get(name) is not None}
            timings.append(Timing(label, stage, row["runtime"], figures, bool(row.get("stable"))))
    timings.sort(key=lambda timing: (order.get(timing.label, len(order)), timing.label, timing.runtime))
    return Session(*key, tuple(timings), tuple(skipped), dict(libraries))
