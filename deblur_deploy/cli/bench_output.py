"""What ``deblur-deploy bench`` prints and writes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deblur_deploy.cli.console import Output
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.files import check_writable, write_text

if TYPE_CHECKING:
    from deblur_deploy.bench.entries import BenchEntry
    from deblur_deploy.bench.measure import BenchConfig, BenchReport
    from deblur_deploy.bench.row import BenchRow
    from deblur_deploy.bench.stream import StreamRow

Contender = tuple[Artifact, str | None]
"""Something to measure, with the name of its rows where that is not its directory."""


@dataclass(frozen=True)
class BenchFiles:
    """Files to write, each or None: every sample, two forms of the table, and trtexec's times."""

    jsonl: Path | None
    csv: Path | None
    markdown: Path | None
    times: Path | None

    def check(self) -> None:
        """Check, before minutes of measuring, whether they can be written.

        Raises:
            ArtifactError: One cannot.
        """
        for path in filter(None, (self.jsonl, self.csv, self.markdown, self.times)):
            if path.is_dir():
                raise ArtifactError(f"{path} cannot be written: it is a directory", hint="name a file in it")
            if path.is_file() or not path.exists():  # what is neither, such as a pipe, is written to as it is
                check_writable(path.parent if path.exists() else path)

    def write(self, report: BenchReport, output: Output) -> None:
        """Write those that were asked for.

        Raises:
            ArtifactError: One cannot be written.
        """
        from deblur_deploy.bench.records import as_csv, as_markdown, report_records, write_jsonl
        from deblur_deploy.bench.trtexec import write_times

        records = report_records(report)
        if self.jsonl:
            write_jsonl(records, self.jsonl)
        if self.csv:
            write_text(self.csv, as_csv(records))
        if self.markdown:
            write_text(self.markdown, as_markdown(records))
        for path in filter(None, (self.jsonl, self.csv, self.markdown)):
            output.say(f"wrote     {path}")
        timed = [row for row in report.rows if row.samples]
        for row in timed if self.times else ():
            assert self.times is not None
            name = f"{Path(row.artifact).name}-{row.runtime}-{row.res}-{row.batch}"
            name += "" if row.transfers else "-no-transfers"
            suffix = "" if len(timed) == 1 else "-" + re.sub(r"[^\w.-]+", "-", name)
            path = self.times.with_name(f"{self.times.stem}{suffix}{self.times.suffix or '.json'}")
            write_times(row.samples, path)
            output.say(f"wrote     {path}")


_WITH = {"cuda_graph": "graph", "transfers": "transfers", "spin_wait": "spin wait"}
"""Settings of rows on a GPU, and their headings in the table."""


def print_rows(output: Output, report: BenchReport) -> None:
    """Print the latency table, skipped rows with their reason and trtexec's warnings below it."""
    cells = [_cells(row) for row in report.rows if row.latency_ms]
    several = len({(row.res, row.batch) for row in report.rows}) > 1
    has_gpu = any("transfers" in row.settings for row in report.rows if row.latency_ms)
    optional = {"res": several, "batch": several, "with": has_gpu, "GPU ms": has_gpu}
    shown = [name for name in (cells[0] if cells else ()) if optional.get(name, True)]
    output.table(shown, [[row[name] for name in shown] for row in cells])
    for row in (row for row in report.rows if row.is_baseline):
        size = f" at {row.res}, {row.batch} at a time" if several else ""
        output.say(f"baseline  {Path(row.artifact).name} on {row.runtime}{size}: the original in its fastest runtime")
    for row in report.rows:
        name = f"{Path(row.artifact).name} on {row.runtime}" + ("" if row.transfers else " without transfers")
        if row.skipped:
            output.say(f"skipped   {name}: {row.skipped}")
        for warning in row.warnings:
            output.say(f"warning   {name}: {warning}")


def _cells(row: BenchRow) -> dict[str, str]:
    """The table's cells for a measured row, by heading."""
    assert row.latency_ms is not None
    ratio = ""
    if row.ratio is not None and row.ratio_ci is not None:
        ratio = f"{row.ratio:.2f} [{row.ratio_ci[0]:.2f}, {row.ratio_ci[1]:.2f}]"
    on_gpu = "transfers" in row.settings
    return {
        "artifact": Path(row.artifact).name,
        "runtime": row.runtime,
        "with": ", ".join(word for name, word in _WITH.items() if row.settings.get(name)) or "none" if on_gpu else "",
        "res": row.res,
        "batch": str(row.batch),
        "median ms": f"{row.latency_ms.median:.1f}",
        "p90 ms": f"{row.latency_ms.p90:.1f}",
        "p99 ms": f"{row.latency_ms.p99:.1f}",
        "GPU ms": "" if row.gpu_compute_ms is None else f"{row.gpu_compute_ms:.1f}",
        "fps": f"{row.throughput_fps or 0:.2f}",
        "x baseline [95 %]": ratio,
        "x floor": "" if row.over_floor is None else f"{row.over_floor:.1f}",
        "MiB": "" if "host" not in row.memory_mib else f"{row.memory_mib['host']:.0f}",
        "": "" if row.stable else "unstable",
    }


def print_ceilings(output: Output, report: BenchReport) -> None:
    """Print the ceilings that the floors are computed from."""
    for place, found in report.device["ceilings"].items():
        rates = ", ".join(
            f"{kind} {rate:.0f} GMAC/s ({found['best'][kind]})" for kind, rate in found["gmacs_per_s"].items()
        )
        output.say(f"ceilings  {place}: {rates}, copy {found['gb_per_s']:.1f} GB/s")


def print_laws(output: Output, report: BenchReport) -> list[dict[str, Any]]:
    """Print how time grows with the picture; returns the laws as plain data."""
    from deblur_deploy.bench.sweep import fit_scaling

    laws = fit_scaling(report.rows)
    output.table(
        ["artifact", "runtime", "ms = a MP^b: a", "b", "R²", "sizes"],
        [
            [
                Path(law.artifact).name,
                law.runtime + ("" if law.transfers else " without transfers"),
                f"{law.ms_per_mp:.1f}",
                f"{law.exponent:.3f}",
                f"{law.r_squared:.4f}",
                str(law.sizes),
            ]
            for law in laws
        ],
    )
    return [dataclasses.asdict(law) for law in laws]


def run_streams(
    entries: Sequence[BenchEntry],
    config: BenchConfig,
    rates: Sequence[float],
    files: BenchFiles,
    output: Output,
    *,
    pipelined: bool,
) -> None:
    """Let frames arrive at every rate for every row, print and write how it kept up.

    Args:
        entries: The rows.
        config: Size, threads and seconds.
        rates: Frames per second, one stream each.
        files: Only JSONL is possible.
        output: Where to print.
        pipelined: Whether conversion runs in parallel with the network.

    Raises:
        ConfigError: A file was asked for that streams do not have.
        KeyboardInterrupt: Ctrl-C, once the rows measured so far are written.
    """
    from deblur_deploy.bench.device import device_facts
    from deblur_deploy.bench.records import stream_records, write_jsonl
    from deblur_deploy.bench.stream import StreamConfig, measure_stream
    from deblur_deploy.core.threads import default_threads

    if files.csv or files.markdown or files.times:
        raise ConfigError("streams are written as JSONL only", hint="give --save, and leave the other files out")
    device = device_facts() | {"threads": config.threads or default_threads()}
    seconds, threads, spin = config.duration_ms / 1000, config.threads, config.spin_wait
    streams = [StreamConfig(fps, seconds, pipelined, config.resolution, threads, spin_wait=spin) for fps in rates]
    rows: list[StreamRow] = []
    interrupted = False
    with output.waiting("streaming") as tick:
        try:
            for entry in entries:
                for arriving in streams:
                    tick(f"{entry.runtime} at {arriving.fps:g} fps")
                    rows.append(measure_stream(entry, arriving))
        except KeyboardInterrupt:
            interrupted = True
    _print_streams(output, rows)
    if files.jsonl:
        write_jsonl(stream_records(rows, device), files.jsonl)
        output.say(f"wrote     {files.jsonl}")
    output.emit({"device": device, "streams": [row.as_json() for row in rows]})
    if interrupted:
        raise KeyboardInterrupt


def _print_streams(output: Output, rows: Sequence[StreamRow]) -> None:
    output.table(
        ["artifact", "runtime", "fps", "median ms", "p90 ms", "p99 ms", "frames", "dropped"],
        [
            [
                Path(row.artifact).name,
                row.runtime,
                f"{row.stream_fps:g}",
                *(f"{ms:.1f}" for ms in (row.latency_ms.median, row.latency_ms.p90, row.latency_ms.p99)),
                str(row.frames),
                str(row.dropped),
            ]
            for row in rows
            if row.latency_ms
        ],
    )
    for row in rows:
        if row.skipped:
            output.say(f"skipped   {Path(row.artifact).name} on {row.runtime} at {row.stream_fps:g} fps: {row.skipped}")
