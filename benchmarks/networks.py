"""Our generators beside the published ones: what they weigh, what they compute, and how long a frame takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measurement import Measurement, time_rows

from deblur_deploy.bench.entries import BenchEntry
from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact, NetworkSpec, load_artifact, new_step
from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped

_EAGER = "torch"
_HEADINGS = ("network", "parameters", "GMACs", "eager ms", "fastest ms", "in")


@dataclass(frozen=True)
class Contestant:
    """A published network, with random weights: neither arithmetic nor latency depends on their values.

    Args:
        name: As it is called.
        arch: Name in the table of architectures.
        config: Fields of its config that differ from the defaults.
        eager: Whether it is timed in eager PyTorch too.
    """

    name: str
    arch: str
    config: dict[str, Any] = field(default_factory=dict)
    eager: bool = True


@dataclass(frozen=True)
class Networks:
    """Parameters, multiply-accumulates and latency of networks on this processor, measured in turns.

    Args:
        ours: Names of shipped generators; those that are not there are passed over, but the first must be.
        published: What they stand beside.
        rival: Name of the published network that the figure compares the first of ours with.
        runtimes: What their ONNX files are timed in, besides eager PyTorch for the checkpoints.
        counted: Size of the frame that multiply-accumulates are counted for.
        bench: Size of the frame that is timed, and how.
    """

    ours: tuple[str, ...]
    published: tuple[Contestant, ...]
    rival: str
    runtimes: tuple[str, ...]
    counted: Resolution
    bench: BenchConfig

    def measure(self) -> Measurement:
        """Latency of the rival over that of the first of ours, each in its fastest runtime."""
        with TemporaryDirectory() as name:
            checkpoints = self._checkpoints(Path(name))
            entries = [
                entry for label, found in checkpoints.items() for entry in self._entries(label, found, Path(name))
            ]
            report = time_rows([entry for _, entry in entries], self.bench)
            costs = {label: self._cost(found) for label, found in checkpoints.items()}
        timed = [(label, row) for (label, _), row in zip(entries, report.rows, strict=True) if row.latency_ms]
        rows = [{"network": label, **costs[label], **_latencies(label, timed)} for label in costs]
        fastest = {row["network"]: row["fastest_ms"] for row in rows}
        first = self.ours[0]
        if fastest[first] is None or fastest[self.rival] is None:
            raise MissingDependencyError("no runtime could run both networks", hint="install the extra `demo`")
        note = f"{fastest[self.rival]:.0f} ms of {self.rival} against {fastest[first]:.0f} ms of {first}"
        details = {"networks": rows, "table": {"headings": _HEADINGS, "rows": [_cells(row) for row in rows]}}
        samples = {f"{label}, {row.runtime}": row.windows_ms for label, row in timed}
        figure = fastest[self.rival] / fastest[first]
        return Measurement(figure, "×", samples, note, details, all(row.stable for _, row in timed))

    def _checkpoints(self, folder: Path) -> dict[str, Artifact]:
        """All networks by name, ours first."""
        from deblur_deploy.network.checkpoint import build_network, save_network

        models = shipped("models")
        found = {name: load_artifact(models / name) for name in self.ours if (models / name).exists()}
        for one in self.published:
            spec = NetworkSpec(one.arch, one.config)
            step = new_step("import", {"weights": "random"}, None, {})
            found[one.name] = save_network(folder / f"net-{len(found)}", build_network(spec), spec, step)
        return found

    def _entries(self, label: str, checkpoint: Artifact, folder: Path) -> list[tuple[str, BenchEntry]]:
        """A checkpoint in eager PyTorch, but not where it only simulates integers, and its ONNX file."""
        from deblur_deploy.export.to_onnx import export_onnx

        size = self.bench.resolution
        graph = export_onnx(checkpoint, ExportConfig(size.width, size.height), folder / f"onnx-{label}")
        simulated = checkpoint.network.quantization is not None
        left_out = simulated or label in {one.name for one in self.published if not one.eager}
        eager = [] if left_out else [BenchEntry(checkpoint, _EAGER)]
        return [(label, entry) for entry in [*eager, *(BenchEntry(graph, name) for name in self.runtimes)]]

    def _cost(self, checkpoint: Artifact) -> dict[str, float]:
        from deblur_deploy.network.checkpoint import build_network
        from deblur_deploy.network.cost import measure_cost

        # A quantized network computes as much as the one that it was made from; its simulation would count more.
        plain = dataclasses.replace(checkpoint.network, quantization=None)
        return measure_cost(build_network(plain), self.counted)


def _latencies(label: str, timed: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Medians of one network: in eager PyTorch, and where it is fastest."""
    medians = {row.runtime: row.latency_ms.median for name, row in timed if name == label}
    fastest = min(medians, key=lambda runtime: medians[runtime], default=None)
    return {
        "eager_ms": medians.get(_EAGER),
        "fastest_ms": None if fastest is None else medians[fastest],
        "fastest_runtime": fastest,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    eager, fastest = ("" if row[name] is None else f"{row[name]:.0f}" for name in ("eager_ms", "fastest_ms"))
    cost = [f"{row['params']:,}", f"{row['gmacs']:.1f}"]
    return [row["network"], *cost, eager, fastest, row["fastest_runtime"] or ""]
