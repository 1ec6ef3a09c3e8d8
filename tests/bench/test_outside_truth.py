"""The harness against a loop that shares nothing with it."""

from __future__ import annotations

import statistics
import time

import numpy as np
import onnxruntime

from deblur_deploy.artifact import Artifact
from deblur_deploy.bench.measure import BenchConfig, BenchEntry, measure
from deblur_deploy.config import ExportConfig
from deblur_deploy.export.to_onnx import export_onnx
from deblur_deploy.images import Resolution

SIZE = Resolution(160, 96)
ROUNDS, RUNS, ATTEMPTS, TOLERANCE = 5, 8, 6, 0.05


def loop_ms(session: onnxruntime.InferenceSession, picture: np.ndarray) -> list[float]:
    """Times of the same calls in a row, as onnxruntime_perf_test takes them."""
    session.run(None, {"blurred": picture})
    times = []
    for _ in range(RUNS):
        start = time.perf_counter_ns()
        session.run(None, {"blurred": picture})
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def test_a_plain_loop_over_onnxruntime_takes_as_long(tiny_checkpoint: Artifact, tmp_path) -> None:
    """Medians of both, taken in turns in one process, are within 5 % of each other.

    What else the machine does adds to either side by chance, so several attempts are allowed; a harness that added or
    left out something of its own would miss in all of them.
    """
    graph = export_onnx(tiny_checkpoint, ExportConfig(SIZE.width, SIZE.height), tmp_path / "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.path, options, providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), dtype=np.float32)
    config = BenchConfig(SIZE, threads=1, warmup_ms=0, duration_ms=0, min_iterations=RUNS, windows=1, max_windows=1)
    found = []
    for _ in range(ATTEMPTS):
        ours: list[float] = []
        plain: list[float] = []
        for _ in range(ROUNDS):
            plain += loop_ms(session, picture)
            (row,) = measure([BenchEntry(graph, "onnxruntime")], config).rows
            ours += row.windows_ms[-1]
        found.append(statistics.median(ours) / statistics.median(plain))
        if abs(found[-1] - 1) <= TOLERANCE:
            return
    raise AssertionError(f"harness over plain loop in {ATTEMPTS} attempts: {found}")
