"""The flags of ``deblur-deploy train``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.cli.dispatch import run_command
from deblur_deploy.cli.options import new_directory
from deblur_deploy.config import ShakeConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data.pairs import Pair
from deblur_deploy.data.shake import shake
from deblur_deploy.training import train as train_module


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


@pytest.fixture
def footage(write_film, photo, checkpoint_file: Path, run, tmp_path: Path) -> Path:
    """A folder with what training on footage needs: blurred pictures, a film, sharp photographs, a generator."""
    for name, picture in (("blurred", photo[:, ::-1]), ("sharp", photo)):
        (tmp_path / name).mkdir()
        save_rgb(tmp_path / name / "one.png", np.ascontiguousarray(picture))
    write_film(tmp_path / "film.mkv", [np.ascontiguousarray(np.roll(photo, shift, 1)) for shift in range(6)])
    run("import", checkpoint_file, "--out", tmp_path / "generator").done()
    (tmp_path / "footage.toml").write_text(
        "[fit]\nsteps = 2\nbatch = 1\ncrop = 48\n[unpaired]\nblur_base = 4\nfilm_frames = 4\n"
    )
    return tmp_path


@pytest.fixture
def one_pair(monkeypatch: pytest.MonkeyPatch, photo) -> None:
    """One small pair in the place of the ten that are shipped."""
    blurred = shake(photo, ShakeConfig(), np.random.default_rng(0)).blurred
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: [Pair("a.png", blurred, photo)])


@pytest.mark.usefixtures("one_pair")
@pytest.mark.parametrize(("place", "pictures"), [("blurred", 1), ("film.mkv", 3)])
def test_footage_trains_a_generator(run, footage: Path, place: str, pictures: int) -> None:
    """Of six frames every second one is kept, since at most four may be."""
    options = ("--unpaired", footage / place, "--data", footage / "sharp", "--init", footage / "generator")
    told = run("train", footage / "footage.toml", *options, "--out", footage / "tuned").done()
    assert f"footage   {pictures} blurred pictures; on the shipped pairs " in told.out

    answer = run("inspect", footage / "tuned", "--json").done().json
    assert (answer["kind"], answer["stage"]) == ("checkpoint", "train")
    found = load_artifact(footage / "tuned").figures["unpaired"]
    assert found["footage"] == pictures
    assert [step for step, _ in found["checks"]] == [0, 2]
    assert (found["turned_at"], found["kept_step"]) == (None, 2)


@pytest.mark.usefixtures("one_pair")
def test_a_run_that_turns_says_at_which_step_and_what_it_kept(run, footage: Path) -> None:
    recipe = "[fit]\nsteps = 6\nbatch = 1\ncrop = 48\nlr = 0.05\nwarmup = 0\nema_decay = 0.0\n"
    (footage / "absurd.toml").write_text(f"{recipe}[unpaired]\nblur_base = 4\nblur_share = 0.0\ncheck_every = 1\n")
    options = ("--unpaired", footage / "blurred", "--data", footage / "sharp", "--init", footage / "generator")
    answer = run("train", footage / "absurd.toml", *options, "--out", footage / "tuned", "--json").done()
    turned = answer.json["figures"]["unpaired"]["turned_at"]
    assert 1 <= turned < 6
    assert f"at step {turned}, where the run turned and was ended; kept: what it started from" in answer.err


def test_wrong_footage_is_refused_in_a_sentence(refuse, footage: Path, photo) -> None:
    (footage / "empty").mkdir()
    (footage / "sharp" / "inside").mkdir()
    save_rgb(footage / "sharp" / "inside" / "one.png", photo)
    for kind in ("blur", "sharp"):
        (footage / "pairs" / kind).mkdir(parents=True)
        save_rgb(footage / "pairs" / kind / "one.png", photo)
    (footage / "small").mkdir()
    save_rgb(footage / "small" / "tiny.png", np.ascontiguousarray(photo[:40]))
    (footage / "damaged").mkdir()
    (footage / "damaged" / "cut.png").write_bytes((footage / "sharp" / "one.png").read_bytes()[:2000])
    (footage / "broken.mkv").write_bytes((footage / "film.mkv").read_bytes()[:300])
    generator = ("--init", footage / "generator")

    def said(code: int, blurred: str, sharp: str, *options: object) -> str:
        places = ("--unpaired", footage / blurred, "--data", footage / sharp)
        return refuse(code, "train", footage / "footage.toml", *places, *options)

    assert "nothing to start from" in said(2, "blurred", "sharp")
    assert "empty holds no pictures and no films" in said(1, "empty", "sharp", *generator)
    assert "empty holds no images" in said(1, "blurred", "empty", *generator)
    assert "neither a folder nor a film" in said(1, "nowhere", "sharp", *generator)
    assert "as the blurred and as the sharp pictures" in said(2, "sharp", "sharp", *generator)
    assert "lie one inside the other" in said(2, "sharp/inside", "sharp", *generator)
    assert "pairs holds blurred and sharp pairs" in said(2, "blurred", "pairs", *generator)
    assert "pairs holds blurred and sharp pairs" in said(2, "pairs", "sharp", *generator)
    assert "tiny.png with a side of 40 px is too small" in said(2, "small", "sharp", *generator)
    assert "tiny.png with a side of 40 px is too small" in said(2, "blurred", "small", *generator)
    assert "cut.png cannot be read" in said(1, "damaged", "sharp", *generator)
    assert "broken.mkv cannot be read" in said(1, "broken.mkv", "sharp", *generator)


def test_a_quantized_generator_is_not_tuned_on_footage(refuse, made: dict[str, Path], footage: Path) -> None:
    places = ("--unpaired", footage / "blurred", "--data", footage / "sharp", "--init", made["qat"])
    assert "is quantized" in refuse(1, "train", footage / "footage.toml", *places)
