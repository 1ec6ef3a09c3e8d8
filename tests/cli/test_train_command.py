"""The flags of ``deblur-deploy train``."""

from __future__ import annotations

from pathlib import Path

import pytest

from deblur_deploy.cli.dispatch import run_command
from deblur_deploy.cli.options import new_directory


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text("base = 8\n")
    return tmp_path / "recipe.toml"


def test_going_on_needs_the_name_of_the_run(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("train", [str(recipe), "--resume"]) == 2
    assert "--resume needs --out" in capsys.readouterr().err


def test_several_processes_need_the_name_of_the_run(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_command("train", [str(recipe)]) == 2
    assert "several processes needs --out" in capsys.readouterr().err


def test_a_run_without_a_state_says_how_to_start(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", [str(recipe), "--resume", "--out", str(tmp_path / "run")]) == 1
    assert "holds no saved state" in capsys.readouterr().err


def test_a_negative_interval_is_bad_usage(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("train", [str(recipe), "--save-minutes", "-1"]) == 2
    assert "save_minutes is -1.0" in capsys.readouterr().err


def test_a_new_run_leaves_an_interrupted_one_alone(tmp_path: Path) -> None:
    (tmp_path / "train-001.training").mkdir()
    assert new_directory(None, tmp_path, "train") == tmp_path / "train-002"


def test_a_wider_recipe_is_announced(run, checkpoint_file: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    run("import", checkpoint_file, "--out", narrow).done()
    (tmp_path / "recipe.toml").write_text("base = 12\n[fit]\nsteps = 0\ncrop = 48\n")

    outcome = run("train", tmp_path / "recipe.toml", "--init", narrow, "--out", tmp_path / "wide").done()

    assert f"init      {narrow}" in outcome.out
    assert "widens    level_channels (8, 16, 32) to (12, 24, 48), block_channels" in outcome.out
