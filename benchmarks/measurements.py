"""The kinds of measurement: one class each, whose fields are a scenario's parameters."""

from __future__ import annotations

import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from measurement import Measurement, fastest_row, milliseconds, time_rows
from untuned import INT8, UntunedNetworks

from deblur_deploy.bench.entries import BenchEntry, entries_of
from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.bench.row import BenchRow
from deblur_deploy.bench.samples import median_ratio_interval
from deblur_deploy.config import (
    EngineConfig,
    ExportConfig,
    PrecisionConfig,
    PruneConfig,
)
from deblur_deploy.core.errors import MissingDependencyError
from deblur_deploy.core.images import Resolution
from deblur_deploy.core.sources import shipped_generator


@dataclass(frozen=True)
class PruneGraph:
    """The graph work of pruning, on a network of random weights.

    Args:
        base: Base width of the SRN.
        depths: Residual blocks on each level.
        keep: Share of the channels to keep.
        round_to: Kept channels are a multiple of this.
        repeats: Number of runs.
    """

    base: int
    depths: tuple[int, int, int]
    keep: float
    round_to: int
    repeats: int

    def measure(self) -> Measurement:
        """Seconds of one pruning, the median."""
        import torch

        from deblur_deploy.compress.plan import prune_network
        from deblur_deploy.network.srn import SRN, SRNConfig

        torch.manual_seed(0)
        net = SRN(SRNConfig.from_base(self.base, self.depths)).eval()
        config = PruneConfig(keep=self.keep, round_to=self.round_to, importance="l2")
        samples = [milliseconds(lambda: prune_network(net, config)) for _ in range(self.repeats)]
        params = sum(parameter.numel() for parameter in net.parameters())
        details = {"params": params, "threads": torch.get_num_threads()}
        note = f"{params / 1e6:.2f} M parameters; {_spread(samples)}"
        return Measurement(statistics.median(samples) / 1000, "s", {"prune_network": samples}, note, details)


@dataclass(frozen=True)
class RtxBuild:
    """The build of a TensorRT-RTX engine of the shipped generator in FP16.

    Args:
        resolution: Size of the engine's input.
        card: What it is built for.
        repeats: Number of builds.
    """

    resolution: Resolution
    card: str
    repeats: int

    def measure(self) -> Measurement:
        """Seconds of one build, the median."""
        from deblur_deploy.engine.build import build_engine_bytes, check_engine_config
        from deblur_deploy.export.precision import lower_precision
        from deblur_deploy.export.to_onnx import export_onnx

        config = EngineConfig(target=self.card, flavour="rtx")
        check_engine_config(config)
        original = shipped_generator()
        with TemporaryDirectory() as name:
            size = ExportConfig(self.resolution.width, self.resolution.height)
            graph = export_onnx(original, size, Path(name) / "onnx")
            network = lower_precision(graph, PrecisionConfig(), Path(name) / "fp16").path.read_bytes()
        builds = []
        samples = [
            milliseconds(lambda: builds.append(build_engine_bytes(network, config))) for _ in range(self.repeats)
        ]
        last = builds[-1]
        details = {
            "model_sha256": original.sha256,
            "flavour_version": last.flavour_version,
            "builder_seconds": [round(built.seconds, 3) for built in builds],
            "engine_bytes": len(last.data),
            "layers": last.layers,
            "precision": last.proof.shares(),
        }
        note = f"TensorRT-RTX {last.flavour_version}, an engine of {len(last.data) / 2**20:.1f} MiB; {_spread(samples)}"
        return Measurement(statistics.median(samples) / 1000, "s", {"build_engine_bytes": samples}, note, details)


@dataclass(frozen=True)
class HelpStart:
    """How long the command line takes to answer, in starts of the bare interpreter.

    Args:
        runs: Number of runs of each.
    """

    runs: int

    def measure(self) -> Measurement:
        """Ratio of the medians."""
        program = Path(sysconfig.get_path("scripts")) / "deblur-deploy"
        if not program.exists():
            raise MissingDependencyError("the command deblur-deploy is not installed", hint="pip install -e .")
        commands = {
            "deblur-deploy --help": [str(program), "--help"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        samples: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(self.runs + 1):
            for name, command in commands.items():
                taken = milliseconds(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))  # noqa: B023
                if run:  # the first is untimed: it may have to compile modules
                    samples[name].append(taken)
        ours, bare = samples.values()
        medians = statistics.median(ours), statistics.median(bare)
        interval = median_ratio_interval(ours, bare)
        note = f"{medians[0]:.1f} ms against {medians[1]:.1f} ms; {_interval(interval)}; {self.runs} runs of each"
        return Measurement(medians[0] / medians[1], "×", dict(samples), note, {"ratio_ci": interval})


@dataclass(frozen=True)
class Frame:
    """One frame: the shipped generator in eager PyTorch against itself pruned and in INT8.

    Args:
        keep: Share of the channels that pruning keeps.
        bench: Size of the frame, and how it is timed.
    """

    keep: float
    bench: BenchConfig

    def measure(self) -> Measurement:
        """Median of the original over the median of the fastest runtime."""
        with TemporaryDirectory() as name:
            networks = UntunedNetworks(self.keep, Path(name))
            int8 = networks.export(INT8, self.bench.resolution)
            entries = [BenchEntry(networks.original, "torch"), *entries_of(int8)]
            report = time_rows(entries, self.bench)
        first, rows = report.rows[0], report.rows[1:]
        best = fastest_row(rows)
        details = {
            "int8_source": networks.how,
            "model_sha256": networks.original.sha256,
            "int8_sha256": int8.sha256,
            "threads": report.device["threads"],
            "best_runtime": best.runtime,
            "rows": [{k: v for k, v in row.as_json().items() if k != "artifact"} for row in report.rows],
        }
        samples = {f"original, {first.runtime}": first.windows_ms}
        samples |= {f"pruned INT8, {row.runtime}": row.windows_ms for row in rows}
        note, stable = _compared(first, best, rows), first.stable and best.stable
        return Measurement(best.ratio or 0.0, "×", samples, note, details, stable)


def _spread(samples_ms: Sequence[float]) -> str:
    """Number and range of samples."""
    return f"{min(samples_ms) / 1000:.2f} to {max(samples_ms) / 1000:.2f} s in {len(samples_ms)} runs"


def _interval(bounds: tuple[float, float]) -> str:
    return f"95 % interval {bounds[0]:.2f} to {bounds[1]:.2f}"


def _compared(original: BenchRow, best: BenchRow, rows: Sequence[BenchRow]) -> str:
    """Both latencies, the interval of their ratio, and the other runtimes."""
    assert original.latency_ms is not None
    assert best.ratio_ci is not None
    others = [f"{row.runtime} {row.latency_ms.median:.0f} ms" for row in rows if row.latency_ms and row is not best]
    parts = [
        f"{original.latency_ms.median:.0f} ms in eager PyTorch against {_latency(best)} in {best.runtime}",
        _interval(best.ratio_ci),
        *([f"the other runtimes: {', '.join(others)}"] if others else []),
    ]
    return "; ".join(parts)


def _latency(row: BenchRow) -> str:
    return f"{row.latency_ms.median:.0f} ms" if row.latency_ms else "no time"
