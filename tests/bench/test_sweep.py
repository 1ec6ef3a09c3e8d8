"""Batches and resolutions, and the law that is fitted to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deblur_deploy.bench import sweep as sweep_module
from deblur_deploy.bench.entries import BenchEntry, Selection
from deblur_deploy.bench.measure import BenchConfig, BenchReport
from deblur_deploy.bench.samples import Latency
from deblur_deploy.bench.sweep import fit_scaling, measure_batches, measure_sweep
from deblur_deploy.core.artifact import Artifact
from deblur_deploy.core.errors import ExportError
from deblur_deploy.core.images import Resolution

SIZES = (Resolution(16, 16), Resolution(32, 16), Resolution(32, 32))


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "SWEEP", SIZES)


def test_images_per_second_count_every_frame_of_a_batch(
    tiny_checkpoint: Artifact, tiny_graph: Artifact, quick: BenchConfig
) -> None:
    entries = [BenchEntry(tiny_checkpoint, "torch"), BenchEntry(tiny_graph, "onnxruntime")]
    report = measure_batches(entries, quick, [1, 3])
    assert [(row.runtime, row.batch) for row in report.rows] == [
        *(("torch", 1), ("onnxruntime", 1)),
        *(("torch", 3), ("onnxruntime", 3)),
    ]
    three = report.rows[2]
    assert three.throughput_fps is not None
    times = [sample for window in three.windows_ms for sample in window]
    assert three.throughput_fps == pytest.approx(3000 * len(times) / sum(times))
    assert three.ratio == 1  # within its size
    assert "takes one image at a time, not 3" in (report.rows[3].skipped or "")
    assert len(report.entries) == 4


@pytest.mark.usefixtures("small_sizes")
def test_a_sweep_exports_a_checkpoint_at_every_size(
    tiny_checkpoint: Artifact, tiny_graph: Artifact, quick: BenchConfig, tmp_path: Path
) -> None:
    contenders = [(tiny_checkpoint, "ours"), (tiny_graph, None)]
    report = measure_sweep(contenders, quick, tmp_path, Selection(("torch", "onnxruntime")))
    measured = {(row.artifact, row.runtime, row.res) for row in report.rows if row.latency_ms}
    everywhere = {
        (name, runtime, str(size))
        for name, runtime in (("ours", "torch"), ("ours as ONNX", "onnxruntime"))
        for size in SIZES
    }
    assert measured == everywhere | {(str(tiny_graph.directory), "onnxruntime", "32x16")}
    skipped = [row for row in report.rows if row.skipped]
    assert [row.res for row in skipped] == ["16x16", "32x32"]
    assert all("exported for 32x16" in (row.skipped or "") for row in skipped)
    laws = {law.artifact for law in fit_scaling(report.rows)}
    assert laws == {"ours", "ours as ONNX"}


@pytest.mark.usefixtures("small_sizes")
def test_an_export_that_fails_half_way_is_a_row_and_the_rest_goes_on(
    tiny_checkpoint: Artifact, quick: BenchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = sweep_module._export

    def failing(artifact: Artifact, size: Resolution, out: Path) -> Artifact:
        if size == SIZES[1]:
            raise ExportError("the size takes more memory than there is", hint="try a smaller one")
        return export(artifact, size, out)

    monkeypatch.setattr(sweep_module, "_export", failing)
    report = measure_sweep([(tiny_checkpoint, "ours")], quick, tmp_path, Selection(("torch", "onnxruntime")))
    (lost,) = (row for row in report.rows if row.skipped)
    assert (lost.runtime, lost.res) == ("onnxruntime", "32x16")
    assert lost.skipped == "the size takes more memory than there is; try a smaller one"
    assert sum(row.latency_ms is not None for row in report.rows) == 5


@pytest.mark.usefixtures("small_sizes")
def test_control_c_between_two_sizes_keeps_the_first(
    tiny_checkpoint: Artifact, quick: BenchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = sweep_module._export

    def interrupted(artifact: Artifact, size: Resolution, out: Path) -> Artifact:
        if size == SIZES[1]:
            raise KeyboardInterrupt
        return export(artifact, size, out)

    monkeypatch.setattr(sweep_module, "_export", interrupted)
    report = measure_sweep([(tiny_checkpoint, "ours")], quick, tmp_path, Selection(("torch", "onnxruntime")))
    assert report.interrupted
    assert [row.res for row in report.rows] == ["16x16", "16x16"]


def test_the_law_is_found_again(tiny_report: BenchReport) -> None:
    row = tiny_report.rows[0]

    def at(width: int, height: int) -> object:
        ms = 40 * (width * height / 1e6) ** 0.9
        return dataclasses.replace(row, res=f"{width}x{height}", latency_ms=Latency(ms, ms, ms, ms))

    sizes = ((320, 180), (640, 360), (1280, 720), (1920, 1080))
    skipped = dataclasses.replace(row, res="960x540", latency_ms=None)
    (law,) = fit_scaling([*(at(*size) for size in sizes), skipped])
    assert law.exponent == pytest.approx(0.9)
    assert law.ms_per_mp == pytest.approx(40)
    assert law.r_squared == pytest.approx(1)
    assert law.sizes == 4
    assert fit_scaling([at(320, 180), at(640, 360)]) == []
    resident = [dataclasses.replace(at(*size), settings={"transfers": False}) for size in sizes]
    assert [law.transfers for law in fit_scaling([*(at(*size) for size in sizes), *resident])] == [True, False]


def test_the_sweep_goes_from_320x180_to_1920x1080() -> None:
    assert (str(sweep_module.SWEEP[0]), str(sweep_module.SWEEP[-1])) == ("320x180", "1920x1080")
