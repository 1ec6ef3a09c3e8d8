"""Which rows a report has, what they are called, and which figures stand in one table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.report.stages import compared, read_stages
from tests.report.conftest import Run, quality, write


def test_a_whole_run_has_the_rows_of_the_demo_s_table(whole_run: Run) -> None:
    stages = read_stages(whole_run.folder)
    assert [stage.label for stage in stages] == ["original", "pruned", "int8", "fp16 engine"]
    assert [stage.quality.psnr_db for stage in stages if stage.quality] == [25.5, 25.3, 25.25, 25.26]
    assert stages[0].hashes == {whole_run.artifacts["onnx-original"].sha256, whole_run.artifacts["source"].sha256}
    assert whole_run.artifacts["qat"].sha256 not in stages[2].hashes  # it only simulates INT8


def test_without_an_engine_the_typed_graph_is_a_row(whole_run: Run) -> None:
    shutil.rmtree(whole_run.folder / "engine-fp16")
    assert [stage.label for stage in read_stages(whole_run.folder)] == ["original", "pruned", "int8", "fp16"]


def test_a_checkpoint_that_was_not_exported_is_a_row(whole_run: Run) -> None:
    for name in ("onnx-pruned", "onnx-int8", "onnx-fp16", "engine-fp16"):
        shutil.rmtree(whole_run.folder / name)
    stages = read_stages(whole_run.folder)
    assert [stage.label for stage in stages] == ["original", "int8"]
    assert stages[1].artifact.kind == "checkpoint"
    assert stages[1].precision == {}


def test_two_of_a_kind_are_told_apart_by_their_directories(whole_run: Run) -> None:
    again = {"precision": {"fp32": 1.0}} | quality(25.2)
    write(whole_run.folder / "again", whole_run.artifacts["prune"], "export-onnx", again, kind="onnx", size=3000)
    labels = [stage.label for stage in read_stages(whole_run.folder)]
    assert labels[1:3] == ["pruned (onnx-pruned)", "pruned (again)"]


def test_quality_on_other_photographs_is_not_compared(whole_run: Run) -> None:
    other = {"precision": {"fp32": 1.0}, "psnr_db": 40.0, "psnr_blurred_db": 39.0}
    write(whole_run.folder / "onnx-pruned", whole_run.artifacts["prune"], "export-onnx", other, kind="onnx", size=3000)
    stages = read_stages(whole_run.folder)
    assert [stage.label for stage, _ in compared(stages)] == ["original", "int8", "fp16 engine"]
    assert compared(stages[1:]) == []


def test_an_empty_run_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no artifact"):
        read_stages(tmp_path)
    with pytest.raises(ArtifactError, match="there is no directory"):
        read_stages(tmp_path / "nowhere")
