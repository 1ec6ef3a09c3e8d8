"""trtexec's figures, warnings and file, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deblur_deploy.bench.samples import spread, variation_percent
from deblur_deploy.bench.trtexec import Sample, trtexec_metrics, trtexec_warnings, write_times
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.runtime.device_timings import DeviceTimings

SPREAD = {"min", "max", "mean", "median", "p90", "p95", "p99"}


def on_gpu(start: float, compute: float, enqueue: float = 1.0) -> Sample:
    """1 ms of copy there, a gap of 1 ms, the network, 2 ms of copy back."""
    h2d, began = (start, start + 1), start + 2
    timings = DeviceTimings(
        (start, start + enqueue), h2d, (began, began + compute), (began + compute, began + compute + 2)
    )
    return Sample(1000 + start, compute + 4, timings)


def test_a_device_s_times_are_told_apart_by_trtexec_s_names() -> None:
    metrics = trtexec_metrics([on_gpu(0, 10), on_gpu(20, 14)], walltime_ms=40)
    assert metrics["Throughput"] == 50
    assert metrics["Total Host Walltime"] == pytest.approx(0.040)
    assert metrics["Total GPU Compute Time"] == pytest.approx(0.024)
    assert metrics["Latency"]["mean"] == 15  # 1 + 12 + 2: without the gap
    assert metrics["GPU Compute Time"]["min"] == 10
    assert metrics["GPU Compute Time"]["max"] == 14
    assert metrics["H2D Latency"]["median"] == 1
    assert metrics["D2H Latency"]["p99"] == 2
    assert metrics["Enqueue Time"]["p90"] == 1
    assert metrics["Latency"].keys() == SPREAD


def test_a_processor_has_no_times_of_a_device() -> None:
    metrics = trtexec_metrics([Sample(0, 10), Sample(10, 20)], walltime_ms=30)
    assert metrics.keys() == {"Throughput", "Latency", "Total Host Walltime"}
    assert metrics["Latency"]["median"] == 15


@pytest.mark.parametrize(("enqueue", "warned"), [(7.9, False), (8.1, True)])
def test_a_slow_host_is_warned_of(enqueue: float, warned: bool) -> None:
    found = trtexec_warnings([on_gpu(20 * run, 10, enqueue) for run in range(4)])
    assert any("enqueue" in warning for warning in found) is warned


@pytest.mark.parametrize(("deviation", "warned"), [(0.24, False), (0.26, True)])
def test_an_unsteady_compute_time_is_warned_of(deviation: float, warned: bool) -> None:
    found = trtexec_warnings([Sample(0, 10 - deviation), Sample(10, 10 + deviation)])  # 2.4 or 2.6 % of 10 ms
    assert any("coefficient of variation" in warning for warning in found) is warned


def test_figures_of_samples() -> None:
    assert variation_percent([8.0, 12.0]) == 20
    assert (spread([1.0, 2.0, 6.0]).mean, spread([1.0, 2.0, 6.0]).max) == (3.0, 6.0)


def test_times_are_written_as_trtexec_writes_them(tmp_path: Path) -> None:
    write_times([on_gpu(5, 10), on_gpu(25, 14)], tmp_path / "new" / "times.json")
    first, second = json.loads((tmp_path / "new" / "times.json").read_text())
    assert first == {
        **{"startEnqMs": 0, "endEnqMs": 1, "startH2dMs": 0, "endH2dMs": 1},
        **{"startComputeMs": 2, "endComputeMs": 12, "startD2hMs": 12, "endD2hMs": 14},
        **{"h2dMs": 1, "computeMs": 10, "d2hMs": 2, "latencyMs": 13},
    }
    assert second["startEnqMs"] == 20

    write_times([Sample(3, 7)], tmp_path / "times.json")
    (only,) = json.loads((tmp_path / "times.json").read_text())
    assert only.keys() == first.keys()
    assert (only["computeMs"], only["latencyMs"], only["h2dMs"]) == (7, 7, 0)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_times([Sample(3, 7)], tmp_path / "times.json" / "below")
