"""The harness against a loop that shares nothing with it."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from deblur_deploy.bench.entries import BenchEntry
from deblur_deploy.bench.measure import BenchConfig, measure
from deblur_deploy.config import ExportConfig
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import Resolution
from deblur_deploy.export.to_onnx import export_onnx

SIZE = Resolution(160, 96)
RUNS = 20


class PlainLoop:
    """The same call, timed as onnxruntime_perf_test does, once whenever it is asked to."""

    def __init__(self, graph: Artifact) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph.path, options, providers=["CPUExecutionProvider"])
        self._picture = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), dtype=np.float32)
        self.times_ms: list[float] = []

    def take_turn(self, *_: object) -> None:
        """One inference after one that is not counted, as in the harness's windows."""
        self._session.run(None, {"blurred": self._picture})
        start = time.perf_counter_ns()
        self._session.run(None, {"blurred": self._picture})
        self.times_ms.append((time.perf_counter_ns() - start) / 1e6)


def lower_quartile(times: list[float]) -> float:
    """What else the machine does only ever adds to a time, so that the shorter ones are nearer to the truth."""
    return statistics.quantiles(times, n=4)[0]


def harness_over_loop(graph: Artifact) -> float:
    """Lower quartile of the harness's times over that of the loop's, single inferences of both in turns."""
    config = BenchConfig(
        SIZE, threads=1, warmup_ms=0, duration_ms=0, min_iterations=RUNS, windows=RUNS, max_windows=RUNS, tolerance=9
    )
    plain = PlainLoop(graph)
    (row,) = measure([BenchEntry(graph, "onnxruntime")], config, plain.take_turn).rows
    ours = [sample for window in row.windows_ms for sample in window]
    assert len(ours) == len(plain.times_ms) == RUNS
    return lower_quartile(ours) / lower_quartile(plain.times_ms)


@pytest.mark.parametrize(
    ("attempts", "tolerance"), [(3, 0.15), pytest.param(9, 0.05, marks=pytest.mark.slow)], ids=["15 %", "5 %"]
)
def test_a_plain_loop_over_onnxruntime_takes_as_long(
    tiny_checkpoint: Artifact, tmp_path: Path, attempts: int, tolerance: float
) -> None:
    """The median of several attempts counts: a harness that added something of its own would add it in most."""
    graph = export_onnx(tiny_checkpoint, ExportConfig(SIZE.width, SIZE.height), tmp_path / "onnx")
    ratios = [harness_over_loop(graph) for _ in range(attempts)]
    assert statistics.median(ratios) == pytest.approx(1, abs=tolerance), ratios
