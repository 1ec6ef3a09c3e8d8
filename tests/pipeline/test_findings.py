"""What a second run takes over from the first: only what was made by this recipe, from these photographs, here."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.bench.measure import BenchConfig
from deblur_deploy.cli.console import Output
from deblur_deploy.config import ExportConfig, PruneConfig, TuningConfig
from deblur_deploy.core.artifact import Artifact, Draft, NetworkSpec, load_artifact, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import ImageSpec, save_rgb
from deblur_deploy.pipeline import findings
from deblur_deploy.pipeline.recipe import load_recipe
from deblur_deploy.pipeline.run_stages import RunArtifacts, RunRecord, _Stages


@pytest.fixture
def photos(photo: NDArray[np.uint8], tmp_path: Path) -> Path:
    for name in ("mine", "others"):
        (tmp_path / name).mkdir()
        save_rgb(tmp_path / name / "a.png", photo)
    return tmp_path / "mine"


@pytest.fixture
def parent(tmp_path: Path) -> Artifact:
    return written(tmp_path / "source", None, {})


def written(out: Path, source: Artifact | None, settings: Any) -> Artifact:
    def write(path: Path) -> None:
        path.write_bytes(b"weights")

    step = new_step("prune", settings, source, {})
    return write_artifact(out, Draft("checkpoint", "w.bin", write, NetworkSpec("srn", {}), ImageSpec(), step))


class Stage:
    """Counts how often it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, source: Artifact, settings: Any, out: Path) -> Artifact:
        self.runs += 1
        return written(out, source, settings)


def on(photos: Path) -> PruneConfig:
    return PruneConfig(tuning=TuningConfig(photos=str(photos), evaluation=str(photos)), importance="l2")


def once(tmp_path: Path, parent: Artifact, settings: Any, stage: Stage) -> int:
    """Run the stage as a new process would; returns how often it has run by now."""
    runs = tmp_path / "runs"
    _Stages(runs, Output(as_json=True), RunRecord(runs)).once("prune", parent, settings, stage)
    return stage.runs


def test_a_stage_runs_again_when_a_photograph_was_changed_in_place(
    photos: Path, photo: NDArray[np.uint8], parent: Artifact, tmp_path: Path
) -> None:
    stage, before = Stage(), (photos / "a.png").stat()
    assert once(tmp_path, parent, on(photos), stage) == 1
    assert once(tmp_path, parent, on(photos), stage) == 1

    save_rgb(photos / "a.png", photo[::-1])
    os.utime(photos / "a.png", ns=(before.st_atime_ns, before.st_mtime_ns))

    assert once(tmp_path, parent, on(photos), stage) == 2
    assert once(tmp_path, parent, on(photos), stage) == 2


def test_a_folder_may_be_moved_and_settings_may_not(photos: Path, parent: Artifact, tmp_path: Path) -> None:
    stage = Stage()
    once(tmp_path, parent, on(photos), stage)
    assert once(tmp_path, parent, on(photos.with_name("others")), stage) == 1
    assert once(tmp_path, parent, dataclasses.replace(on(photos), keep=0.5), stage) == 2
    (tmp_path / "runs" / "run.json").write_text("{")  # killed while it was written on another system
    assert once(tmp_path, parent, dataclasses.replace(on(photos), keep=0.5), stage) == 3


def test_an_artifact_from_elsewhere_is_not_taken(photos: Path, parent: Artifact, tmp_path: Path) -> None:
    stage = Stage()
    once(tmp_path, parent, on(photos), stage)
    written(tmp_path / "runs" / "prune", parent, on(photos))
    assert once(tmp_path, parent, on(photos), stage) == 2


def test_two_recipes_of_one_name_do_not_share_a_directory(photos: Path, parent: Artifact, tmp_path: Path) -> None:
    recipes = [tmp_path / name / "small.toml" for name in ("one", "two")]
    for recipe in recipes:
        recipe.parent.mkdir()
        recipe.touch()
    runs = tmp_path / "runs" / "small"
    made = written(runs / "prune", parent, on(photos))
    RunRecord(runs, recipes[0]).note(made, on(photos))
    assert RunRecord(runs, recipes[0]).holds(load_artifact(runs / "prune"), on(photos))

    with pytest.raises(ArtifactError, match=r"small holds the run of .*one/small\.toml, which is another recipe"):
        RunRecord(runs, recipes[1])
    recipes[0].rename(recipes[1])
    assert RunRecord(runs, recipes[1]).holds(made, on(photos))


def test_folders_in_every_table_are_relative_to_the_recipe(tmp_path: Path) -> None:
    text = (
        '[prune]\ntuning.photos = "p"\ntuning.evaluation = "/e"\n[export]\nevaluation = "x"\n[fp16]\nevaluation = "f"\n'
    )
    (tmp_path / "recipe.toml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.prune
    assert recipe.fp16
    tuning = recipe.prune.tuning
    assert (tuning.photos, tuning.evaluation) == (str(tmp_path / "p"), "/e")
    assert (recipe.export, recipe.fp16.evaluation) == (
        ExportConfig(evaluation=str(tmp_path / "x")),
        str(tmp_path / "f"),
    )


def test_latencies_of_another_machine_are_not_taken_over(
    parent: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, measured = {"cpu": "this one", "cores": 2, "temperature": 50, "libraries": {}}, []

    def measure(*_: object) -> SimpleNamespace:
        measured.append(facts["cpu"])
        return SimpleNamespace(interrupted=False, as_json=lambda: {"results": []})

    monkeypatch.setattr(findings, "device_facts", lambda: dict(facts))
    monkeypatch.setattr(findings, "measure", measure)
    monkeypatch.setattr(findings, "all_entries", lambda artifacts: [])
    monkeypatch.setattr(findings, "report_records", lambda report: [])
    made = RunArtifacts({"original": parent}, {"original": parent}, None)
    for change in ({}, {"temperature": 70}, {"cpu": "another"}, {}):
        facts.update(change)
        findings.measure_latency(made, BenchConfig(), tmp_path, Output(as_json=True))
    assert measured == ["this one", "another"]


def test_what_a_killed_run_left_half_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".summary.abcd_123.partial.md").write_text("half")
    (tmp_path / "summary.md").write_text("whole")
    RunRecord(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.md"]
