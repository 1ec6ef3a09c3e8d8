"""The guard of a run: when it measures, what it keeps, and how it ends a run that does harm."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deblur_deploy.config import FitConfig
from deblur_deploy.core.errors import VerificationError
from deblur_deploy.training.guard import Check, Guard
from deblur_deploy.training.loop import Trainer
from deblur_deploy.training.losses import Objective
from deblur_deploy.training.state import StateKeeper


class Brightness(nn.Module):
    """Adds one number to the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.add = nn.Parameter(torch.zeros(()))

    def forward_scales(self, blurred: Tensor) -> list[Tensor]:
        return [blurred + self.add]


UPWARDS = (torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 1e3))
"""A pair that pulls the number upwards by one learning rate a step."""

FIT = FitConfig(steps=10, lr=1.0, lr_final=1.0, warmup=0, ema_decay=0.0)


def peak_at(best: float, guarded: list[float] | None = None) -> Guard:
    """A guard whose PSNR is highest where the number is ``best``, and 1 dB less for every unit from there."""

    def measure(net: nn.Module) -> float:
        value = float(net.add.detach())
        if guarded is not None:
            guarded.append(value)
        return 30.0 - abs(value - best)

    return Guard(measure, allowed_db=1.5, every=2)


def test_a_run_that_turns_bad_ends_with_its_best_state() -> None:
    net, guard, seen = Brightness(), peak_at(2.0), list[int]()
    report = Trainer(net, FIT, Objective(FIT), guard=guard).run(repeat(UPWARDS), lambda step, loss: seen.append(step))
    # The number is the step: 28 dB at the start, 30 at step 2, 28 at 4, and 26 at 6, more than 1.5 below the start.
    assert [(check.step, round(check.psnr_db)) for check in guard.checks] == [(0, 28), (2, 30), (4, 28), (6, 26)]
    assert report.steps == 6
    assert seen == [1, 2, 3, 4, 5, 6]
    assert net.add.item() == pytest.approx(2.0, rel=1e-4)
    assert guard.figures() == {
        "checks": [[check.step, check.psnr_db] for check in guard.checks],
        "turned_at": 6,
        "kept_step": 2,
    }
    assert not net.training


def test_a_run_that_stays_within_the_bound_keeps_its_end() -> None:
    net, guard = Brightness(), peak_at(6.0)
    report = Trainer(net, FIT, Objective(FIT), guard=guard).run(repeat(UPWARDS))
    assert report.steps == 10
    assert net.add.item() == pytest.approx(10.0, rel=1e-4)
    assert [check.step for check in guard.checks] == [0, 2, 4, 6, 8, 10]
    assert guard.figures()["turned_at"] is None
    assert guard.figures()["kept_step"] == 10


def test_the_last_step_is_checked_whatever_the_interval() -> None:
    guard = Guard(lambda net: 30.0, 0.3, every=4)
    Trainer(Brightness(), FIT, Objective(FIT), guard=guard).run(repeat(UPWARDS))
    assert [check.step for check in guard.checks] == [0, 4, 8, 10]


def test_the_guard_sees_the_average_and_training_goes_on_from_the_weights() -> None:
    fit = FitConfig(steps=4, lr=1.0, lr_final=1.0, warmup=0, ema_decay=0.5)
    alone, watched = Brightness(), Brightness()
    seen: list[float] = []
    weights: list[float] = []
    Trainer(alone, fit, Objective(fit)).run(repeat(UPWARDS))
    Trainer(watched, fit, Objective(fit), guard=peak_at(100.0, seen)).run(
        repeat(UPWARDS), lambda step, loss: weights.append(watched.add.item())
    )
    assert watched.add.item() == alone.add.item() == seen[-1]
    assert weights == pytest.approx([1, 2, 3, 4], rel=1e-4)
    # The decay is 2/11, 3/12, …: the average lags behind the weights.
    second = 3 / 12 * (9 / 11) + 9 / 12 * 2
    assert seen[:2] == pytest.approx([0.0, second], rel=1e-4)


def test_a_network_without_numbers_counts_as_turned() -> None:
    def measure(net: nn.Module) -> float:
        if net.add.item() > 3:
            raise VerificationError("NaN", hint="none")
        return 30.0

    net, guard = Brightness(), Guard(measure, 0.3, every=2)
    Trainer(net, FIT, Objective(FIT), guard=guard).run(repeat(UPWARDS))
    assert guard.checks[-1] == Check(4, float("-inf"))
    assert guard.figures()["kept_step"] == 0
    assert net.add.item() == 0


def test_a_guarded_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """Stopped behind its best state and before it turns, it must still know that state."""
    keeper = StateKeeper(tmp_path / "run.training", 0, {})

    def stop(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(Brightness(), FIT, Objective(FIT), guard=peak_at(2.0)).run(repeat(UPWARDS), stop, keeper)
    net, guard = Brightness(), peak_at(2.0)
    trainer = Trainer(net, FIT, Objective(FIT), guard=guard)
    trainer.restore(keeper.load())
    assert trainer.run(repeat(UPWARDS)).steps == 6
    assert net.add.item() == pytest.approx(2.0, rel=1e-4)
    assert [check.step for check in guard.checks] == [0, 2, 4, 6]


def test_a_run_that_has_turned_does_not_train_again(tmp_path: Path) -> None:
    keeper = StateKeeper(tmp_path / "run.training", 0, {})
    first = Trainer(Brightness(), FIT, Objective(FIT), guard=peak_at(2.0))
    first.run(repeat(UPWARDS), None, keeper)
    net, seen = Brightness(), list[int]()
    again = Trainer(net, FIT, Objective(FIT), guard=peak_at(2.0))
    again.restore(keeper.load())
    again.run(repeat(UPWARDS), lambda step, loss: seen.append(step))
    assert seen == []
    assert net.add.item() == pytest.approx(2.0, rel=1e-4)
