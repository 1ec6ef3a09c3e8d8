"""The harness on engines of the stand-in: with and without CUDA graphs, transfers and spin wait, down to the files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_stand_in import COMPUTE_MS, DOWNLOAD_MS, UPLOAD_MS

from deblur_deploy.bench import entries as entries_module
from deblur_deploy.bench import measure as measure_module
from deblur_deploy.bench.entries import Selection, entries_of
from deblur_deploy.bench.measure import BenchConfig, BenchReport, measure
from deblur_deploy.bench.records import as_csv, read_jsonl, report_records, write_jsonl
from deblur_deploy.cli import bench_output
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.images import ImageSpec, Resolution
from deblur_deploy.runtime import runner as runner_module
from deblur_deploy.runtime import trt as trt_module

CONFIG = BenchConfig(Resolution(6, 4), 1, warmup_ms=0, duration_ms=0, min_iterations=6, max_windows=3, tolerance=9e9)
INFERENCES = 1 + 3 * (1 + 2)
"""One to warm up, and in each of three windows one that does not count and two that do."""


@pytest.fixture
def cuda(stand_in: Any, engine: Artifact, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in in the place of CUDA, with an engine of the full TensorRT on it."""
    cuda = stand_in.StandInCuda()
    module = stand_in.StandInTensorRT({b"engine": stand_in.StandInEngine(cuda, (1, 3, 4, 6))})
    monkeypatch.setattr(trt_module, "import_tensorrt", lambda flavour: module)
    monkeypatch.setattr(trt_module, "Cuda", lambda: cuda)
    monkeypatch.setattr(runner_module, "_unavailable", lambda *_: None)
    monkeypatch.setattr(measure_module, "reason_unavailable", lambda *_: None)
    monkeypatch.setattr(entries_module, "count_nvidia_gpus", lambda: 1)
    return cuda


def timed(engine: Artifact, config: BenchConfig = CONFIG) -> BenchReport:
    step = dataclasses.replace(engine.history[-1], figures=engine.figures | {"flavour": "tensorrt"})
    artifact = dataclasses.replace(engine, history=(step,), image=ImageSpec())
    return measure(entries_of(artifact, "ours", Selection(transfers=None)), config)


def test_four_rows_each_do_what_they_say(cuda: Any, engine: Artifact) -> None:
    rows = timed(engine).rows
    assert [(row.runtime, row.settings) for row in rows] == [
        (runtime, {"cuda_graph": graph, "transfers": transfers, "spin_wait": True})
        for runtime, graph in (("tensorrt", True), ("tensorrt-no-graph", False))
        for transfers in (True, False)
    ]
    copies = 2 * INFERENCES + 2  # in the rows without transfers only the first picture is copied
    assert (cuda.log.count("upload"), cuda.log.count("download")) == (copies, copies)
    assert cuda.log.count("graph") == 2 * (INFERENCES - 1)
    whole = UPLOAD_MS + COMPUTE_MS + DOWNLOAD_MS
    for row in rows:
        expected = whole if row.transfers else COMPUTE_MS
        assert row.metrics["Latency"]["median"] == pytest.approx(expected)
        assert row.metrics["GPU Compute Time"]["median"] == pytest.approx(COMPUTE_MS)
        assert row.metrics["H2D Latency"]["max"] == pytest.approx(UPLOAD_MS if row.transfers else 0)
        assert row.metrics["Enqueue Time"]["min"] > 0
    assert [row.ratio is None for row in rows] == [False, True, False, True]
    assert cuda.leaks == {}


@pytest.mark.parametrize(("spin_wait", "way"), [(True, "awake"), (False, "asleep")])
def test_every_row_waits_as_it_is_told_and_says_so(cuda: Any, engine: Artifact, spin_wait: bool, way: str) -> None:
    rows = timed(engine, dataclasses.replace(CONFIG, spin_wait=spin_wait)).rows
    assert [row.settings["spin_wait"] for row in rows] == [spin_wait] * 4
    assert cuda.host_waits == [way] * (4 * INFERENCES)


def test_files_and_the_table_tell_the_rows_apart(cuda: Any, engine: Artifact, tmp_path: Path) -> None:
    report = timed(engine)
    write_jsonl(report_records(report), tmp_path / "rows.jsonl")
    records = read_jsonl(tmp_path / "rows.jsonl")
    assert [record["settings"] for record in records] == [row.settings for row in report.rows]
    assert all(record["metrics"]["GPU Compute Time"]["median"] == pytest.approx(5) for record in records)
    table = list(csv.DictReader(io.StringIO(as_csv(records))))
    assert [(row["cuda_graph"], row["transfers"], row["spin_wait"]) for row in table] == [
        (graph, transfers, "True") for graph in ("True", "False") for transfers in ("True", "False")
    ]

    printed: list[Any] = []
    output = SimpleNamespace(table=lambda *given: printed.append(given), say=lambda text: None)
    bench_output.print_rows(output, report)
    ((headings, rows),) = printed
    shown = [dict(zip(headings, row, strict=True)) for row in rows]
    assert [(row["runtime"], row["with"], row["GPU ms"]) for row in shown] == [
        ("tensorrt", "graph, transfers, spin wait", "5.0"),
        ("tensorrt", "graph, spin wait", "5.0"),
        ("tensorrt-no-graph", "transfers, spin wait", "5.0"),
        ("tensorrt-no-graph", "spin wait", "5.0"),
    ]
    assert [bool(row["x baseline [95 %]"]) for row in shown] == [True, False, True, False]

    times = tmp_path / "times.json"
    saying = SimpleNamespace(say=lambda text: None)
    bench_output.BenchFiles(None, None, None, times).write(report, saying)
    resident = json.loads((tmp_path / "times-ours-tensorrt-6x4-1-no-transfers.json").read_text())
    assert {entry["h2dMs"] for entry in resident} == {0}
    assert len(list(tmp_path.glob("times-*.json"))) == 4
