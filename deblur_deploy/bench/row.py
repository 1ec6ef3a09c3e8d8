"""One row of a benchmark: what was measured of one artifact on one runtime."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from deblur_deploy.bench.floor import Floor
from deblur_deploy.bench.samples import Latency
from deblur_deploy.bench.trtexec import Sample
from deblur_deploy.core.bench_rows import has_transfers

_NOT_IN_JSON = ("sha256", "windows_ms", "samples", "metrics", "warnings")
"""Fields that ``--json`` leaves to the JSONL file."""


@dataclass(frozen=True)
class BenchRow:
    """What was measured of one entry.

    Args:
        artifact: Directory of the artifact, or the user's name for a network without an artifact.
        sha256: Hash of its payload.
        runtime: What it ran on.
        res: Size of the frame, WIDTHxHEIGHT.
        latency_ms: Time of one inference, input and output in host memory unless ``settings`` say that there are no
            transfers; None where nothing was measured.
        throughput_fps: Frames per second, one inference after the other.
        ratio: Median of the baseline over this median: above 1 is faster.
        ratio_ci: 95 % interval of the ratio.
        stable: Whether the windows agree.
        skipped: Why nothing was measured, or None.
        windows_ms: Every time of one inference, by window, counted or not.
        batch: Frames in one inference.
        is_baseline: Whether the ratios are to this row.
        memory_mib: ``host``: the most that loading and running it has added to the process; ``device``: what it has
            added on the GPU. Those that are not known are left out.
        joules_per_frame: Energy that the GPU has used for a frame, or None.
        floor: The least time that the machine's limits allow, or None where the network cannot be counted.
        over_floor: Median over that floor.
        metrics: As trtexec reports them; its GPU Compute Time is that without transfers.
        warnings: What trtexec would warn of.
        settings: How the runtime runs a network: what the table of runtimes says of it, and, of engines and PyTorch on
            a GPU, ``cuda_graph``, ``transfers`` and ``spin_wait``.
        samples: The inferences that count, with when they began.
    """

    artifact: str
    sha256: str
    runtime: str
    res: str
    latency_ms: Latency | None
    throughput_fps: float | None
    ratio: float | None
    ratio_ci: tuple[float, float] | None
    stable: bool
    skipped: str | None
    windows_ms: tuple[tuple[float, ...], ...]
    batch: int = 1
    is_baseline: bool = False
    memory_mib: dict[str, float] = field(default_factory=dict)
    joules_per_frame: float | None = None
    floor: Floor | None = None
    over_floor: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()

    @property
    def transfers(self) -> bool:
        """Whether the time includes the copies of the pictures; otherwise they stay on the GPU."""
        return has_transfers({"settings": self.settings})

    @property
    def gpu_compute_ms(self) -> float | None:
        """Median time of the network alone, by CUDA events."""
        median: float | None = self.metrics.get("GPU Compute Time", {}).get("median")
        return median

    def as_json(self) -> dict[str, Any]:
        """The row for ``--json``, without raw samples."""
        return {key: value for key, value in self.as_record().items() if key not in _NOT_IN_JSON}

    def as_record(self) -> dict[str, Any]:
        """The row for the JSONL file, every time of an inference included."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "samples"}
        return {
            name: dataclasses.asdict(value) if isinstance(value, (Latency, Floor)) else value
            for name, value in fields.items()
        }

    def over(self, floor: Floor | None) -> BenchRow:
        """The row with its floor."""
        if floor is None or self.latency_ms is None:
            return dataclasses.replace(self, floor=floor)
        over_floor = self.latency_ms.median / floor.floor_ms if floor.floor_ms else None
        return dataclasses.replace(self, floor=floor, over_floor=over_floor)
