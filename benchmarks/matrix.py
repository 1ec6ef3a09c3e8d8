"""Every network on every runtime: the shipped generator, pruned, and in INT8, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from engines import engine_entries
from measurement import Measurement, fastest_row, median_ms, time_rows
from untuned import ORIGINAL, UntunedNetworks

from deblur_deploy.bench.entries import BenchEntry, entries_of
from deblur_deploy.bench.limits import add_floors
from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.bench.row import BenchRow

_HEADINGS = ("network", "runtime", "ms", "p90 ms", "× baseline [95 %]", "× eager", "× floor", "host MiB", "")


@dataclass(frozen=True)
class Matrix:
    """The shipped generator, pruned, and pruned in INT8, each on every runtime that there is for it.

    Args:
        keep: Share of the channels that pruning keeps.
        bench: Size of the frame, and how it is timed.
    """

    keep: float
    bench: BenchConfig

    def measure(self) -> Measurement:
        """Median of the original in its fastest runtime over that of the fastest row."""
        with TemporaryDirectory() as name:
            networks = UntunedNetworks(self.keep, Path(name))
            report = add_floors(time_rows(self._entries(networks, Path(name)), self.bench), self.bench)
        best, eager_ms = fastest_row(report.rows), median_ms(report.rows[0])
        baseline = next((row for row in report.rows if row.is_baseline), report.rows[0])
        details = {
            "made": networks.how,
            "model_sha256": networks.original.sha256,
            "conditions": {key: report.device[key] for key in ("threads", "pinned_to", "before", "after", "ceilings")},
            "rows": [row.as_json() for row in report.rows],
            "table": {"headings": _HEADINGS, "rows": [_cells(row, eager_ms) for row in report.rows]},
        }
        samples = {f"{row.artifact}, {row.runtime}": row.windows_ms for row in report.rows if row.ratio is not None}
        note = f"{best.artifact} in {best.runtime} against {baseline.artifact} in {baseline.runtime}"
        if eager_ms and best.latency_ms:
            note += f"; {eager_ms / best.latency_ms.median:.1f}× against eager PyTorch"
        return Measurement(best.ratio or 0.0, "×", samples, note, details, baseline.stable and best.stable)

    def _entries(self, networks: UntunedNetworks, folder: Path) -> list[BenchEntry]:
        """All rows, the original in eager PyTorch first; a quantized checkpoint, which simulates INT8, is none."""
        graphs = {label: networks.export(label, self.bench.resolution) for label in networks.checkpoints}
        entries: list[BenchEntry] = []
        for label, checkpoint in networks.checkpoints.items():
            if checkpoint.network.quantization is None:
                entries += entries_of(checkpoint, label)
            entries += entries_of(graphs[label], label)
        return [*entries, *engine_entries(graphs[ORIGINAL], folder)]


def _cells(row: BenchRow, eager_ms: float | None) -> list[str]:
    """A row of the table; one that could not run says why."""
    if row.latency_ms is None or row.ratio is None or row.ratio_ci is None:
        return [row.artifact, row.runtime, *[""] * 6, row.skipped or ""]
    return [
        row.artifact,
        row.runtime,
        f"{row.latency_ms.median:.1f}",
        f"{row.latency_ms.p90:.1f}",
        f"{row.ratio:.2f} [{row.ratio_ci[0]:.2f}, {row.ratio_ci[1]:.2f}]",
        _or_blank(eager_ms and eager_ms / row.latency_ms.median, 2),
        _or_blank(row.over_floor, 1),
        _or_blank(row.memory_mib.get("host"), 0),
        "" if row.stable else "unstable",
    ]


def _or_blank(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
