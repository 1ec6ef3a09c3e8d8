"""A run that is cut off goes on as if nothing had happened, and what is on disk is whole at every moment."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import repeat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deblur_deploy.config import FitConfig, RunConfig
from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.errors import ArtifactError, ConfigError, DeblurDeployError
from deblur_deploy.training import state as state_module
from deblur_deploy.training import train as train_module
from deblur_deploy.training.loop import Trainer
from deblur_deploy.training.losses import Objective
from deblur_deploy.training.state import SavedState, StateKeeper
from deblur_deploy.training.train import load_recipe, state_folder, train

RECIPE = """
base = 8
depths = [1, 1, 1]
[shake]
length_px = [2.0, 4.0]
[fit]
steps = 8
batch = 2
crop = 48
lr = 1e-3
[loss]
adversarial = 0.01
frequency = 0.1
"""

KILLED = """
import sys, time
from pathlib import Path
import torch
from deblur_deploy.config import RunConfig
from deblur_deploy.training.train import load_recipe, train

def tell(step, steps, loss):
    print(step, flush=True)
    time.sleep(0.3)

torch.set_num_threads(1)
train(None, load_recipe(Path(sys.argv[1])), Path(sys.argv[2]), tell, RunConfig(save_minutes=0.0))
"""


@pytest.fixture
def recipe(write_recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(train_module, "network_quality", lambda net, pairs: {"psnr_db": 0.0})
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: [])
    return write_recipe(RECIPE)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_goes_on_bit_for_bit(recipe: Path, tmp_path: Path) -> None:
    config = load_recipe(recipe)
    losses: list[float] = []
    whole = train(None, config, tmp_path / "whole", lambda step, steps, loss: losses.append(loss))

    command = [sys.executable, "-c", KILLED, str(recipe), str(tmp_path / "cut")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "4\n":
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()

    seen: list[tuple[int, float]] = []
    resumed = train(
        None, config, tmp_path / "cut", lambda step, steps, loss: seen.append((step, loss)), RunConfig(resume=True)
    )
    assert 4 < seen[0][0] <= 8
    assert seen == list(enumerate(losses, start=1))[seen[0][0] - 1 :]
    assert resumed.sha256 == whole.sha256
    assert resumed.figures["loss"] == whole.figures["loss"]
    assert not state_folder(tmp_path / "cut").exists()


def test_a_new_run_does_not_write_over_an_interrupted_one(recipe: Path, tmp_path: Path) -> None:
    config = load_recipe(recipe)

    def interrupt(step: int, steps: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(None, config, tmp_path / "run", interrupt, RunConfig(save_minutes=0.0))
    with pytest.raises(ArtifactError, match="state of an interrupted run") as error:
        train(None, config, tmp_path / "run")
    assert "--resume" in error.value.hint
    assert [path.name for path in state_folder(tmp_path / "run").iterdir()] == ["state-00000002"]


def test_going_on_with_another_recipe_is_refused(recipe: Path, tmp_path: Path) -> None:
    keeper = StateKeeper(tmp_path / "run.training", 0, {"fit": {"lr": 1.0, "batch": 2}, "init": None})
    keeper.save(SavedState(1, {"x": torch.zeros(1)}, {}))
    other = StateKeeper(tmp_path / "run.training", 0, {"fit": {"lr": 1.0, "batch": 3}, "init": "abc"})
    with pytest.raises(ConfigError, match=r"fit\.batch, init differ"):
        other.load()
    slower = StateKeeper(tmp_path / "run.training", 0, {"fit": {"lr": 0.5, "batch": 2}, "init": None})
    assert slower.load().step == 1


def test_without_a_state_there_is_nothing_to_resume(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no saved state"):
        train(None, load_recipe(recipe), tmp_path / "run", None, RunConfig(resume=True))


def test_a_full_disk_keeps_the_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = StateKeeper(tmp_path / "run.training", 0, {})
    keeper.save(SavedState(1, {"x": torch.ones(3)}, {"a": 1}))

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(state_module, "save_file", full)
    with pytest.raises(ArtifactError, match=r"state-00000002.*No space left") as error:
        keeper.save(SavedState(2, {"x": torch.zeros(3)}, {"a": 2}))
    assert "kept" in error.value.hint
    monkeypatch.setattr(state_module, "save_file", save_file)
    state = keeper.load()
    assert (state.step, state.facts) == (1, {"a": 1})
    assert torch.equal(state.tensors["x"], torch.ones(3))
    assert [path.name for path in keeper.folder.iterdir()] == ["state-00000001"]


def test_a_state_that_the_system_does_not_write_keeps_the_older_one(
    tmp_path: Path, small_files_only: Callable[[], AbstractContextManager[None]]
) -> None:
    keeper = StateKeeper(tmp_path / "run.training", 0, {})
    keeper.save(SavedState(1, {"x": torch.ones(3)}, {}))
    with pytest.raises(ArtifactError, match=r"state-00000002(.|\n)*free some space"), small_files_only():
        keeper.save(SavedState(2, {"x": torch.zeros(10_000)}, {}))
    assert keeper.load().step == 1
    assert [path.name for path in keeper.folder.iterdir()] == ["state-00000001"]


def test_what_a_killed_write_leaves_is_passed_over_and_removed(tmp_path: Path) -> None:
    keeper = StateKeeper(tmp_path / "run.training", 0, {})
    keeper.save(SavedState(1, {"x": torch.ones(3)}, {}))
    (keeper.folder / ".state-half").mkdir()
    assert keeper.load().step == 1
    keeper.save(SavedState(2, {"x": torch.ones(3)}, {}))
    assert [path.name for path in keeper.folder.iterdir()] == ["state-00000002"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_damaged_state_is_named(tmp_path: Path, name: str) -> None:
    keeper = StateKeeper(tmp_path / "run.training", 0, {})
    keeper.save(SavedState(1, {"x": torch.ones(3)}, {}))
    path = keeper.folder / "state-00000001" / name
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match="state-00000001 is damaged"):
        keeper.load()


def test_a_nan_keeps_the_last_good_state(tmp_path: Path, tiny_config) -> None:
    from deblur_deploy.network.srn import SRN

    torch.manual_seed(0)
    net = SRN(tiny_config)
    good = (torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
    bad = (torch.full((1, 3, 32, 32), math.nan), good[1])
    config = FitConfig(steps=3, batch=1, crop=32)
    keeper = StateKeeper(tmp_path / "run.training", 60, {})
    with pytest.raises(DeblurDeployError, match="the loss became nan at step 3"):
        Trainer(net, config, Objective(config)).run([good, good, bad], keeper=keeper)
    saved = keeper.load()
    assert saved.step == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.tensors.values())

    torch.manual_seed(0)
    whole, again = SRN(tiny_config), SRN(tiny_config)
    Trainer(whole, config, Objective(config)).run(repeat(good))
    trainer = Trainer(again, config, Objective(config))
    trainer.restore(saved)
    trainer.run(repeat(good))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_that_could_not_write_its_artifact_does_not_start_again(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_recipe(recipe)

    def full(*arguments: object) -> None:
        raise ArtifactError("the disk is full", hint="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save_network", full)
        with pytest.raises(ArtifactError, match="the disk is full"):
            train(None, config, tmp_path / "run")
    seen: list[int] = []
    train(None, config, tmp_path / "run", lambda step, steps, loss: seen.append(step), RunConfig(resume=True))
    assert seen == []
    assert load_artifact(tmp_path / "run").figures["photos"] == 1
