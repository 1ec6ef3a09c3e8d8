"""Frame times as a model of whole networks, and the choice of widths and blocks held against every other choice."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest

from deblur_deploy.compress import knapsack
from deblur_deploy.compress.frame_times import Anatomy, FrameTimes, Shape, Timed
from deblur_deploy.compress.knapsack import Worth, choose_shape
from deblur_deploy.compress.sensitivity import predicted_drop_db
from deblur_deploy.compress.width_cost import Product
from deblur_deploy.core.errors import ConfigError

CHANNELS = (16, 32, 24)
WIDTHS = ((16, 8), (32, 24, 16, 8), (24, 16, 8))
PRODUCTS = (Product((), 1.0), Product((0,), 2.0), Product((0, 1), 6.0), Product((1, 1), 4.0), Product((1, 2), 5.0))


def anatomy(blocks: bool) -> Anatomy:
    return Anatomy(CHANNELS, PRODUCTS, {"b.0": frozenset({2}), "b.1": frozenset()} if blocks else {})


def times(blocks: bool) -> FrameTimes:
    parts = (0.5, 0.3, 1.0, 4.0, 3.0, 2.5, 0.2, 0.1, 0.4, *((0.3, 1.1) if blocks else ()))
    return FrameTimes(anatomy(blocks), parts)


def worth(blocks: bool, seed: int) -> Worth:
    rng = np.random.default_rng(seed)
    lost = tuple(tuple(np.concatenate([[0.0], np.cumsum(rng.random(len(widths) - 1))])) for widths in WIDTHS)
    return Worth(WIDTHS, lost, (("b.0", "b.1"),), {"b.0": 0.9, "b.1": 0.2}) if blocks else Worth(WIDTHS, lost)


def every_shape(blocks: bool) -> list[Shape]:
    gone = [frozenset(), frozenset({"b.1"}), frozenset({"b.0", "b.1"})] if blocks else [frozenset()]
    return [Shape(widths, dropped) for widths in itertools.product(*WIDTHS) for dropped in gone]


def loss(shape: Shape, worth: Worth) -> float:
    inside = {"b.0": {2}} if worth.blocks else {}
    gone = {group for block in shape.dropped for group in inside.get(block, ())}
    groups = sum(
        lost[WIDTHS[group].index(shape.widths[group])] for group, lost in enumerate(worth.lost) if group not in gone
    )
    return groups + sum(worth.blocks[block] for block in shape.dropped)


@pytest.mark.parametrize("blocks", [False, True], ids=["widths", "widths and blocks"])
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.35])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_choice_within_the_budget_loses_less(blocks: bool, share: float, seed: int) -> None:
    model, values = times(blocks), worth(blocks, seed)
    budget = share * model.predict(Shape(CHANNELS))
    fitting = [shape for shape in every_shape(blocks) if model.predict(shape) <= budget]
    best = min(loss(shape, values) for shape in fitting)

    choice = choose_shape(model, values, budget)

    assert model.predict(choice.shape) <= budget * (1 + 1e-9)
    assert choice.lost_db == pytest.approx(predicted_drop_db(best), abs=1e-6)
    assert loss(choice.shape, values) == pytest.approx(best, abs=1e-6)
    assert choice.gap == pytest.approx(0, abs=1e-4)
    assert choice.bound_db <= predicted_drop_db(best) + 1e-6


def test_the_solver_prints_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    solve = knapsack.milp

    def chatty(*arguments: object, **options: object) -> object:
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n")
        return solve(*arguments, **options)

    monkeypatch.setattr(knapsack, "milp", chatty)
    choose_shape(times(False), worth(False, 0), 0.7 * times(False).predict(Shape(CHANNELS)))
    print("what comes after it is there")

    assert capfd.readouterr().out == "what comes after it is there\n"


def test_a_process_without_stdout_gets_its_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = choose_shape(times(False), worth(False, 0), 0.7 * times(False).predict(Shape(CHANNELS)))
    monkeypatch.setattr("sys.stdout", None)
    assert choose_shape(times(False), worth(False, 0), 0.7 * times(False).predict(Shape(CHANNELS))) == expected


def test_a_choice_is_not_taken_in_by_noise_where_there_are_more_parts_than_measurements() -> None:
    """Of many networks the one that is predicted to be the fastest is one whose parts came out too small."""
    rng = np.random.default_rng(1)
    channels = (64,) * 40
    products = tuple(Product((group, group + 1), float(rng.uniform(1, 9))) for group in range(39))
    model = Anatomy(channels, products, {})
    widths = tuple(tuple(range(64, 7, -8)) for _ in channels)
    values = Worth(widths, tuple(tuple(1 - width / 64 for width in of_group) for of_group in widths))
    guess = model.guess()
    true = FrameTimes(model, tuple(100 * guess * np.exp(rng.normal(0, 0.3, len(guess)))))
    shapes = [Shape(channels), *(Shape(tuple(map(int, rng.integers(2, 9, 40) * 8))) for _ in range(22))]
    timed = [Timed(shape, true.predict(shape) * float(np.exp(rng.normal(0, 0.06))), 0.12) for shape in shapes]

    def error(noise: float) -> float:
        fitted = FrameTimes.fit(model, [replace(one, spread=noise) for one in timed])
        chosen = choose_shape(fitted, values, 0.4 * timed[0].ms).shape
        return abs(fitted.predict(chosen) / true.predict(chosen) - 1)

    assert error(0.12) < 0.06
    assert error(0.12) < 0.5 * error(0.0)


def test_nothing_within_the_budget_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no network is found that takes at most"):
        choose_shape(times(False), worth(False, 0), 0.4)


def test_times_of_whole_networks_give_those_of_their_parts() -> None:
    true = times(True)
    rng = np.random.default_rng(4)
    shapes = every_shape(True)
    seen = [Shape(CHANNELS), *(shapes[index] for index in rng.choice(len(shapes), 25, replace=False))]
    timed = [Timed(shape, true.predict(shape) * float(rng.uniform(0.995, 1.005)), 0.01) for shape in seen]

    fitted = FrameTimes.fit(anatomy(True), timed)

    assert fitted.error([Timed(shape, true.predict(shape), 0.0) for shape in shapes]) < 0.02
    assert min(fitted.parts_ms) >= 0
    doubled = replace(fitted, factor=2.0)
    assert doubled.predict(shapes[3]) == pytest.approx(2 * fitted.predict(shapes[3]))
    assert doubled.fixed_ms == pytest.approx(2 * fitted.fixed_ms)
