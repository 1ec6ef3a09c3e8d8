"""Every network on every runtime: the shipped generator, pruned, and in INT8, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from engines import engine_entries
from measurement import Measurement
from untuned import compress_untuned

from deblur_deploy.artifact import Artifact
from deblur_deploy.bench.entries import BenchEntry, entries_of
from deblur_deploy.bench.limits import add_floors
from deblur_deploy.bench.measure import BenchConfig, measure
from deblur_deploy.bench.row import BenchRow
from deblur_deploy.config import ExportConfig
from deblur_deploy.errors import MissingDependencyError
from deblur_deploy.sources import shipped_generator

_HEADINGS = ("network", "runtime", "ms", "p90 ms", "× eager [95 %]", "× floor", "host MiB", "")


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
        """Median of the original in eager PyTorch over that of the fastest row."""
        original = shipped_generator()
        with TemporaryDirectory() as name:
            entries = self._entries(original, Path(name))
            report = add_floors(measure(entries, self.bench), self.bench)
        if report.interrupted:
            raise KeyboardInterrupt
        measured = [row for row in report.rows if row.ratio is not None]
        if not measured:
            raise MissingDependencyError("there is nothing to compare", hint="install the extra `demo`")
        best = max(measured, key=lambda row: row.ratio or 0.0)
        details = {
            "made": f"for this run: prune --keep {self.keep:g} and qat, both without fine-tuning",
            "model_sha256": original.sha256,
            "conditions": {key: report.device[key] for key in ("threads", "pinned_to", "before", "after", "ceilings")},
            "rows": [row.as_json() for row in report.rows],
            "table": {"headings": _HEADINGS, "rows": [_cells(row) for row in report.rows]},
        }
        samples = {f"{row.artifact}, {row.runtime}": row.windows_ms for row in measured}
        note = f"{best.artifact} in {best.runtime} against {measured[0].artifact} in {measured[0].runtime}"
        return Measurement(best.ratio or 0.0, "×", samples, note, details, measured[0].stable and best.stable)

    def _entries(self, original: Artifact, folder: Path) -> list[BenchEntry]:
        """All rows, the original in eager PyTorch first; a quantized checkpoint, which simulates INT8, is none."""
        from deblur_deploy.export.to_onnx import export_onnx

        pruned, quantized = compress_untuned(original, self.keep, folder)
        size, networks = self.bench.resolution, {"original": original, "pruned": pruned, "pruned INT8": quantized}
        entries: list[BenchEntry] = []
        graphs = {}
        for label, checkpoint in networks.items():
            graphs[label] = export_onnx(checkpoint, ExportConfig(size.width, size.height), folder / f"onnx-{label}")
            if checkpoint.network.quantization is None:
                entries += entries_of(checkpoint, label)
            entries += entries_of(graphs[label], label)
        return [*entries, *engine_entries(graphs["original"], folder)]


def _cells(row: BenchRow) -> list[str]:
    """A row of the table; one that could not run says why."""
    if row.latency_ms is None or row.ratio is None or row.ratio_ci is None:
        return [row.artifact, row.runtime, *[""] * 5, row.skipped or ""]
    return [
        row.artifact,
        row.runtime,
        f"{row.latency_ms.median:.1f}",
        f"{row.latency_ms.p90:.1f}",
        f"{row.ratio:.2f} [{row.ratio_ci[0]:.2f}, {row.ratio_ci[1]:.2f}]",
        _or_blank(row.over_floor, 1),
        _or_blank(row.memory_mib.get("host"), 0),
        "" if row.stable else "unstable",
    ]


def _or_blank(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
