"""A run that Ctrl-C or SIGTERM ends saves its state first, says how to go on, and goes on bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from itertools import repeat
from pathlib import Path

import pytest
import torch

from deblur_deploy.config import FitConfig, RunConfig
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.training import train as train_module
from deblur_deploy.training.loop import Trainer
from deblur_deploy.training.losses import Objective
from deblur_deploy.training.state import StateKeeper, deferred_signals
from deblur_deploy.training.train import load_recipe, state_folder, train

RECIPE = """
base = 8
depths = [1, 1, 1]
[shake]
length_px = [2.0, 4.0]
[fit]
steps = 6
batch = 2
crop = 48
lr = 1e-3
[loss]
adversarial = 0.01
"""

SLOW = """
import signal, sys, time
import torch
from deblur_deploy.cli import main
from deblur_deploy.training import train as train_module

def train_slowly(source, config, out, on_step, run):
    def tell(step, steps, loss):
        print(step, file=sys.__stdout__, flush=True)
        time.sleep(0.5)
    return train(source, config, out, tell, run)

train = train_module.train
train_module.train = train_slowly
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
main()
"""


def signal_at_step_three(arguments: list[str], number: signal.Signals) -> tuple[int, str]:
    """Train in a process group of its own and send the signal to all of it; exit code and what stderr got."""
    command = [sys.executable, "-c", SLOW, "train", *arguments, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line == "3\n":
                os.killpg(process.pid, number)
                break
        said = process.stderr.read()
    return process.returncode, said


@pytest.fixture
def recipe(write_recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(train_module, "network_quality", lambda net, pairs: {"psnr_db": 0.0})
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: [])
    return write_recipe(RECIPE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_goes_on_bit_for_bit(recipe: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "runs" / "train-001"
    named = number == signal.SIGINT  # and otherwise it gets a name that the user has to be told
    where = ["--out", str(out)] if named else ["--runs", str(out.parent)]

    ended, said = signal_at_step_three([str(recipe), *where, "--workers", "1"], number)

    assert ended == 128 + number, said
    assert "Traceback" not in said
    options = " ".join([*where, "--workers", "1", "--json", *([] if named else ["--out", str(out)])])
    assert f"go on     deblur-deploy train {recipe} {options} --resume" in said.splitlines()
    assert [path.name for path in state_folder(out).iterdir()] == ["state-00000003"]
    config, seen = load_recipe(recipe), []
    resumed = train(None, config, out, lambda step, steps, loss: seen.append(step), RunConfig(resume=True))
    assert seen == [4, 5, 6]
    assert resumed.sha256 == train(None, config, tmp_path / "whole").sha256


def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(tmp_path: Path, tiny_config: SRNConfig) -> None:
    pair = (torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
    config = FitConfig(steps=4, batch=1, crop=32)

    class Interrupted(Objective):
        """Gets Ctrl-C while the third loss is worked out."""

        def terms(self, *arguments):
            if len(trainer.losses) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().terms(*arguments)

    torch.manual_seed(0)
    whole, cut, again = (SRN(tiny_config) for _ in range(3))
    for net in (cut, again):
        net.load_state_dict(whole.state_dict())
    keeper = StateKeeper(tmp_path / "run.training", 60, {})
    trainer = Trainer(cut, config, Interrupted(config))
    with pytest.raises(KeyboardInterrupt):
        trainer.run(repeat(pair), keeper=keeper)

    saved = keeper.load()
    assert saved.step == 3
    resumed = Trainer(again, config, Objective(config))
    resumed.restore(saved)
    resumed.run(repeat(pair))
    Trainer(whole, config, Objective(config)).run(repeat(pair))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_run_that_is_ended_before_its_first_step_leaves_nothing(tmp_path: Path, tiny_config: SRNConfig) -> None:
    def batches():
        raise KeyboardInterrupt
        yield

    config = FitConfig(steps=4, batch=1, crop=32)
    keeper = StateKeeper(tmp_path / "run.training", 60, {})
    with pytest.raises(KeyboardInterrupt):
        Trainer(SRN(tiny_config), config, Objective(config)).run(batches(), keeper=keeper)
    assert not keeper.folder.exists()


def signalled(done: list[str], failing: bool = False) -> None:
    """Gets Ctrl-C in a block that defers it."""
    with deferred_signals():
        signal.raise_signal(signal.SIGINT)
        if failing:
            raise ValueError("an error of its own")
        done.append("all of it")


def test_signals_wait_for_the_end_of_the_block_and_are_handled_as_before() -> None:
    usual, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt):
        signalled(done)
    with pytest.raises(ValueError, match="of its own"):
        signalled(done, failing=True)
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is usual


def test_in_another_thread_nothing_has_to_wait() -> None:
    done: list[str] = []

    def elsewhere() -> None:
        with deferred_signals():
            done.append("all of it")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == ["all of it"]
