"""No two threads of a block touch the same memory without a barrier between; with any one barrier left out, two do."""

from __future__ import annotations

import pytest
from kernel_cases import SWEEP, Form, barriers, case_of, draw_problem

RACE = 66


def cases_of(seed: int, element: str) -> list:
    problem = draw_problem(seed, element)
    forms = [Form(layout, packed=seed % 2 == 0) for layout in ("nhwc", "nchw")]
    forms += [Form(layout, plugin=True) for layout in (("nhwc", "nchw") if element == "f16" else ("nchw",))]
    return [case_of(problem, form) for form in forms]


@pytest.mark.parametrize("element", ["f32", "f16"])
@pytest.mark.parametrize("seed", SWEEP)
def test_nothing_races(race_detector, record_property, seed, element):
    cases = cases_of(seed, element)

    ended = race_detector.try_to_run(cases, "0")
    record_property("cases", len(cases))
    record_property("races", int(ended.returncode == RACE))
    assert ended.returncode == 0, ended.stderr.decode()[:3000]


@pytest.mark.parametrize(("file", "line"), barriers())
def test_without_a_barrier_there_is_a_race(race_detector, record_property, file, line):
    """Every barrier is needed: the detector finds what happens without it."""
    ended = race_detector.try_to_run(cases_of(6, "f16"), "0", file, str(line))
    record_property("barriers removed", 1)
    record_property("mutants found", int(ended.returncode == RACE))

    assert ended.returncode == RACE, ended.stderr.decode()[:3000]
    assert b"ThreadSanitizer: data race" in ended.stderr


def test_the_kernel_has_the_barriers_that_were_removed():
    assert len(barriers()) == 5
    assert {file for file, _ in barriers()} == {"deform_conv.cu", "tiles.cuh"}
