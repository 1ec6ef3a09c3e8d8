"""A shipped generator beside the compressed one that is shipped with it: size, quality and latency as ONNX files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from measurement import Measurement, fastest_row, time_rows

from deblur_deploy.bench.entries import BenchEntry, entries_of
from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.sources import shipped
from deblur_deploy.quality.gain import format_share, gain_kept, lost_db


@dataclass(frozen=True)
class ShippedPair:
    """What the compressed generator costs and buys against the one that it was made from.

    Args:
        original: Name of a shipped generator.
        compressed: Name of the one made from it.
        figure: ``size_ratio`` (of the ONNX files), ``drop_db`` (PSNR on the shipped pairs, both as ONNX files), or
            ``speedup`` (the original in eager PyTorch over the compressed file in the fastest runtime).
        bench: Size of the frame, and how it is timed.
    """

    original: str
    compressed: str
    figure: Literal["size_ratio", "drop_db", "speedup"]
    bench: BenchConfig

    def measure(self) -> Measurement:
        """The figure."""
        from deblur_deploy.export.to_onnx import export_onnx

        size, needs_quality = self.bench.resolution, self.figure == "drop_db"
        config = ExportConfig(size.width, size.height, evaluate=needs_quality)
        checkpoints = [load_artifact(shipped("models") / name) for name in (self.original, self.compressed)]
        hashes = {"model_sha256": checkpoints[0].sha256, "compressed_sha256": checkpoints[1].sha256}
        with TemporaryDirectory() as folder:
            graphs = [export_onnx(artifact, config, Path(folder) / artifact.directory.name) for artifact in checkpoints]
            if self.figure == "size_ratio":
                return _size(graphs, hashes)
            if self.figure == "drop_db":
                return _drop(graphs, hashes)
            return self._speedup(checkpoints[0], graphs[1], hashes)

    def _speedup(self, original: Artifact, graph: Artifact, hashes: dict[str, Any]) -> Measurement:
        report = time_rows([BenchEntry(original, "torch"), *entries_of(graph)], self.bench)
        first, rows = report.rows[0], [row for row in report.rows[1:] if row.ratio is not None]
        best = fastest_row(report.rows[1:])
        assert first.latency_ms is not None
        assert best.latency_ms is not None
        medians = first.latency_ms.median, best.latency_ms.median
        note = f"{medians[0]:.0f} ms in eager PyTorch against {medians[1]:.0f} ms in {best.runtime}"
        rows_as_json = [row.as_json() | {"artifact": Path(row.artifact).name} for row in report.rows]
        details = hashes | {"threads": report.device["threads"], "rows": rows_as_json}
        samples = {f"{Path(row.artifact).name}, {row.runtime}": row.windows_ms for row in (first, *rows)}
        return Measurement(medians[0] / medians[1], "×", samples, note, details, first.stable and best.stable)


def _size(graphs: list[Artifact], hashes: dict[str, Any]) -> Measurement:
    sizes = [graph.path.stat().st_size for graph in graphs]
    note = f"{sizes[0] / 1e6:.2f} MB to {sizes[1] / 1e6:.3f} MB"
    return Measurement(sizes[1] / sizes[0], "of the size", {}, note, hashes | {"bytes": sizes})


def _drop(graphs: list[Artifact], hashes: dict[str, Any]) -> Measurement:
    psnr = [graph.figures["psnr_db"] for graph in graphs]
    blurred = graphs[0].figures["psnr_blurred_db"]
    share = gain_kept(psnr[1], psnr[0], blurred)
    note = f"{psnr[0]:.2f} dB to {psnr[1]:.2f} dB, both as ONNX files; {format_share(share)} of the gain kept"
    details = hashes | {"psnr_db": psnr, "psnr_blurred_db": blurred, "gain_kept": share}
    return Measurement(lost_db(psnr[0], psnr[1]), "dB", {}, note, details)
