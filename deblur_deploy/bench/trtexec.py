"""What trtexec reports about a measurement: metrics under its names, its warnings, and its file of times.

On a processor an inference is one call that returns with its result, so all of its latency is computation and nothing
is enqueued or copied. Runners for GPUs that know when each part began and ended say so (:class:`TimedRunner`).

Source: TensorRT, ``samples/common/sampleReporting.cpp``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from deblur_deploy.bench.samples import spread, variation_percent
from deblur_deploy.core.files import write_text
from deblur_deploy.runtime.device_timings import DeviceTimings, Span
from deblur_deploy.runtime.runner import Pictures

_ENQUEUE_BOUND = 0.8
"""Median enqueue time over median compute time above which trtexec warns."""

_UNSTABLE_PERCENT = 2.5
"""Coefficient of variation of the compute time above which trtexec warns, as of TensorRT 11."""


@runtime_checkable
class TimedRunner(Protocol):
    """A runner that times the parts of an inference on the device."""

    def infer_timed(self, batch: Pictures) -> tuple[Pictures, DeviceTimings]:
        """As ``Runner.infer``, with the times of its parts."""


@runtime_checkable
class ResidentRunner(Protocol):
    """A runner that can run its network again on pictures that stay on the device, as ``--noDataTransfers`` does."""

    def compute_again(self) -> DeviceTimings:
        """Run it on the pictures of the last ``infer``, wait for the end, and give the times of its parts."""


@dataclass(frozen=True)
class Sample:
    """One timed inference.

    Args:
        start_ms: When it began, on the host's clock.
        wall_ms: Time until the output was in host memory, or, where it stays on the device, there.
        timings: What the runner knows of its parts, or None.
    """

    start_ms: float
    wall_ms: float
    timings: DeviceTimings | None = None

    def trace(self) -> DeviceTimings:
        """Its parts; without a queue and without copies, all of it is computation."""
        if self.timings:
            return self.timings
        end = self.start_ms + self.wall_ms
        return DeviceTimings(None, (self.start_ms, self.start_ms), (self.start_ms, end), (end, end))


def trtexec_metrics(samples: Sequence[Sample], walltime_ms: float) -> dict[str, Any]:
    """The figures of trtexec's performance summary.

    Args:
        samples: At least one.
        walltime_ms: Time from the start of the first to the end of the last, time of other rows' turns left out.

    Returns:
        ``Throughput`` (inferences per second), ``Total Host Walltime`` and ``Total GPU Compute Time`` (seconds), and by
        name the spread in milliseconds of ``Latency`` and of whatever the runner tells apart: ``Enqueue Time``,
        ``H2D Latency``, ``GPU Compute Time``, ``D2H Latency``.
    """
    traces = [sample.trace() for sample in samples]
    metrics: dict[str, Any] = {
        "Throughput": 1000 * len(samples) / walltime_ms if walltime_ms else None,
        "Latency": asdict(spread([trace.latency_ms for trace in traces])),
        "Total Host Walltime": walltime_ms / 1000,
    }
    if not all(sample.timings for sample in samples):
        return metrics
    if enqueue := _enqueue_times(traces):
        metrics["Enqueue Time"] = asdict(spread(enqueue))
    parts: Mapping[str, Callable[[DeviceTimings], Span]] = {
        "H2D Latency": lambda trace: trace.h2d,
        "GPU Compute Time": lambda trace: trace.compute,
        "D2H Latency": lambda trace: trace.d2h,
    }
    for name, span in parts.items():
        metrics[name] = asdict(spread([_length(span(trace)) for trace in traces]))
    metrics["Total GPU Compute Time"] = sum(_length(trace.compute) for trace in traces) / 1000
    return metrics


def trtexec_warnings(samples: Sequence[Sample]) -> tuple[str, ...]:
    """What trtexec would warn of: a host that is slower than the device, and a compute time that is not steady."""
    traces = [sample.trace() for sample in samples]
    compute = [_length(trace.compute) for trace in traces]
    found = []
    enqueue = _enqueue_times(traces)
    if enqueue and statistics.median(enqueue) > _ENQUEUE_BOUND * statistics.median(compute):
        found.append("throughput may be bound by enqueue time rather than by compute; a CUDA graph may raise it")
    if (variation := variation_percent(compute)) > _UNSTABLE_PERCENT:
        found.append(f"compute time varies: coefficient of variation {variation:.1f} %")
    return tuple(found)


def write_times(samples: Sequence[Sample], path: Path) -> None:
    """Write the times of every inference as ``trtexec --exportTimes`` does.

    Args:
        samples: At least one; where the runner does not tell the parts apart, copies take no time and enqueueing
            takes all of it.
        path: The JSON file.

    Raises:
        ArtifactError: It cannot be written.
    """
    origin = min((sample.trace().enqueue or sample.trace().h2d)[0] for sample in samples)
    text = ",\n  ".join(json.dumps(_times(sample.trace(), origin)) for sample in samples)
    write_text(path, f"[\n  {text}\n]\n")


def _times(trace: DeviceTimings, origin: float) -> dict[str, float]:
    spans = {"Enq": trace.enqueue or trace.compute, "H2d": trace.h2d, "Compute": trace.compute, "D2h": trace.d2h}
    times: dict[str, float] = {}
    for name, (start, end) in spans.items():
        times |= {f"start{name}Ms": start - origin, f"end{name}Ms": end - origin}
    lengths = {f"{name.lower()}Ms": _length(span) for name, span in spans.items() if name != "Enq"}
    return times | lengths | {"latencyMs": trace.latency_ms}


def _enqueue_times(traces: Sequence[DeviceTimings]) -> list[float]:
    return [_length(trace.enqueue) for trace in traces if trace.enqueue]


def _length(span: Span) -> float:
    return span[1] - span[0]
