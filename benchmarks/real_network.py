"""A really trained network, compressed: what pruning and quantization leave of its gain on real pictures.

Neither weights nor pictures are in this repository: ``--weights``, ``--pairs`` and ``--photos`` name them. Fine-tuning
copies the unpruned network, on photographs that have nothing to do with the pairs, and goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measurement import Measurement, time_rows
from teaching import Teaching, prune_and_teach

from deblur_deploy.bench.entries import BenchEntry
from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.config import ExportConfig, FitConfig, PrecisionConfig, QatConfig
from deblur_deploy.core.artifact import Artifact, load_artifact
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution
from deblur_deploy.data.pairs import load_pairs

RUNS = Path(__file__).parents[1] / "runs" / "benchmarks"
"""Where the artifacts are made and the state of the fine-tuning is kept."""

ROWS = ("original", "fp16", "pruned", "int8")
_NAMES = {"original": "original", "fp16": "original, FP16 graph", "pruned": "pruned", "int8": "pruned, INT8"}
_HEADINGS = ("network", "parameters", "file", "dB", "gain kept", "ms", "in")


@dataclass(frozen=True)
class RealNetwork:
    """A published network with its published weights through ``prune`` and ``qat``.

    Args:
        arch: Its name in the table of architectures.
        teaching: How it is pruned and how what is left learns from it.
        qat_fit: Crops, steps and rates of the fine-tuning after quantization.
        quality_runtime: What the files are evaluated in.
        bench: How latency is measured.
        runtimes: What the files are timed in.
        weights: Its checkpoint.
        pairs: Folder of blurred and sharp pictures of one size.
        photos: Folder of sharp photographs to learn on.
    """

    arch: str
    teaching: Teaching
    qat_fit: FitConfig
    quality_runtime: str
    bench: BenchConfig
    runtimes: tuple[str, ...]
    weights: Path | None = None
    pairs: Path | None = None
    photos: Path | None = None

    def measure(self) -> Measurement:
        """Share of the gain over the blurred pictures that the pruned INT8 file keeps."""
        if self.weights is None or self.pairs is None or self.photos is None:
            raise ConfigError("the weights and the pictures are not here", hint="give --weights, --pairs and --photos")
        folder = RUNS / f"{self.arch}-{self.teaching.keep:g}"
        networks = self._networks(folder)
        height, width = load_pairs(self.pairs)[0].sharp.shape[:2]
        size = Resolution(width, height)
        quality = _kept(folder / "quality.json", lambda: self._quality(self._graphs(networks, size, folder)))
        timed = self._latencies(self._graphs(networks, self.bench.resolution, folder))
        blurred = quality["original"]["psnr_blurred_db"]
        gain = {row: quality[row]["psnr_db"] - blurred for row in ROWS}
        graphs = self._graphs(networks, size, folder)
        rows = [
            {
                "network": _NAMES[row],
                "params": int(networks["original" if row in ("original", "fp16") else "pruned"].figures["params"]),
                "bytes": graphs[row].path.stat().st_size,
                **quality[row],
                "gain_kept": gain[row] / gain["original"],
                **timed["rows"][row],
            }
            for row in ROWS
        ]
        note = (
            f"{blurred:.2f} dB blurred, {quality['original']['psnr_db']:.2f} dB restored, "
            f"{quality['int8']['psnr_db']:.2f} dB at {self.teaching.keep:.0%} of the channels in INT8"
        )
        table = {"headings": _HEADINGS, "rows": [_cells(row) for row in rows]}
        details = {"networks": rows, "steps": networks["pruned"].figures["steps"], "table": table}
        share = gain["int8"] / gain["original"]
        return Measurement(share, "of the gain", timed["samples_ms"], note, details, timed["stable"])

    def _networks(self, folder: Path) -> dict[str, Artifact]:
        """The original, and what pruning and quantization make of it; what is there already is taken."""
        from deblur_deploy.compress.quantize import qat
        from deblur_deploy.network.checkpoint import import_checkpoint

        assert self.weights is not None
        assert self.photos is not None
        weights, photos = self.weights, self.photos
        original = _made(folder / "original", lambda out: import_checkpoint(weights, self.arch, out))
        pruned = _made(folder / "pruned", lambda out: prune_and_teach(original, self.teaching, photos, out))
        tuning = replace(self.teaching.tuning(photos), fit=self.qat_fit)
        config = QatConfig(exempt=_picture_layers(pruned), tuning=tuning)
        return {
            "original": original,
            "pruned": pruned,
            "int8": _made(folder / "int8", lambda out: qat(pruned, config, out)),
        }

    def _graphs(self, networks: dict[str, Artifact], size: Resolution, folder: Path) -> dict[str, Artifact]:
        """Their ONNX files for a size."""
        from deblur_deploy.export.precision import lower_precision
        from deblur_deploy.export.to_onnx import export_onnx

        config = ExportConfig(size.width, size.height)
        graphs = {
            name: _made(folder / f"onnx-{name}-{size}", lambda out, name=name: export_onnx(networks[name], config, out))
            for name in networks
        }
        half = _made(
            folder / f"onnx-fp16-{size}", lambda out: lower_precision(graphs["original"], PrecisionConfig(), out)
        )
        return {**graphs, "fp16": half}

    def _quality(self, graphs: dict[str, Artifact]) -> dict[str, Any]:
        """Every file on every pair; half precision in onnxruntime, which computes what the file says."""
        from deblur_deploy.quality.evaluate import artifact_quality

        pairs = load_pairs(self.pairs)
        runtimes = dict.fromkeys(ROWS, self.quality_runtime) | {"fp16": "onnxruntime"}
        return {row: artifact_quality(graphs[row], pairs, runtimes[row]) for row in ROWS}

    def _latencies(self, graphs: dict[str, Artifact]) -> dict[str, Any]:
        """Median of each file where it is fastest."""
        entries = [(row, BenchEntry(graphs[row], name)) for row in ROWS for name in self.runtimes]
        report = time_rows([entry for _, entry in entries], self.bench)
        timed = [(row, found) for (row, _), found in zip(entries, report.rows, strict=True) if found.latency_ms]
        rows: dict[str, dict[str, Any]] = {}
        for row in ROWS:
            medians = {found.runtime: found.latency_ms.median for name, found in timed if name == row}
            fastest = min(medians, key=lambda name: medians[name], default=None)
            rows[row] = {"ms": medians.get(fastest), "runtime": fastest}
        samples = {f"{_NAMES[row]}, {found.runtime}": found.windows_ms for row, found in timed}
        return {"rows": rows, "samples_ms": samples, "stable": all(found.stable for _, found in timed)}


def _picture_layers(artifact: Artifact) -> tuple[str, ...]:
    """Convolutions that read or write pictures: a network in levels has one of each in every level."""
    from torch import nn

    from deblur_deploy.network.checkpoint import build_network

    rgb = 3
    return tuple(
        name
        for name, layer in build_network(artifact.network).named_modules()
        if isinstance(layer, nn.Conv2d) and rgb in (layer.in_channels, layer.out_channels)
    )


def _made(folder: Path, make: Callable[[Path], Artifact]) -> Artifact:
    """An artifact of an earlier run, or a new one."""
    return load_artifact(folder) if (folder / "manifest.json").exists() else make(folder)


def _kept(path: Path, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Figures of an earlier run, or new ones."""
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    found = find()
    path.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


def _cells(row: dict[str, Any]) -> list[str]:
    latency = [f"{row['ms']:.0f}", row["runtime"]] if row["ms"] else ["", ""]
    figures = [f"{row['bytes'] / 1e6:.2f} MB", f"{row['psnr_db']:.2f}", f"{row['gain_kept']:.1%}"]
    return [row["network"], f"{row['params']:,}", *figures, *latency]
