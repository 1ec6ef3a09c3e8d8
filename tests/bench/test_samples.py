"""Figures of timing samples, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deblur_deploy.bench.samples import is_stable, median_ratio_interval, percentile, summarize


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [
        (100, 90, 90),  # 10 of 100 are left out
        (100, 95, 95),
        (10, 90, 9),  # one is left out, as in trtexec; float64 would leave out none
        (20, 95, 19),
        (10, 99, 10),
        (1, 99, 1),
        (7, 0, 1),
        (7, 100, 7),
    ],
)
def test_percentiles_are_trtexecs(count: int, percent: float, expected: float) -> None:
    samples = list(range(count, 0, -1))  # 1 to count, out of order
    assert percentile(samples, percent) == expected


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert summarize([4.0, 1.0, 2.0, 10.0]).median == 3.0


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ([100, 100, 100], True),
        ([90, 100, 110], True),  # mean 100, each within 10 of it
        ([89, 100, 111], False),
        ([500, 100, 100, 100], True),  # only the last three count
        ([100, 100, 100, 500], False),
        ([100, 100], False),
    ],
)
def test_stability_is_three_windows_in_a_row_within_10_percent(medians: list[float], expected: bool) -> None:
    windows = [[median - 50.0, median, median + 80.0] for median in medians]
    assert is_stable(windows, needed=3, tolerance=0.10) is expected


def test_one_window_agrees_with_nothing() -> None:
    assert not is_stable([[1.0, 1.0]], needed=1, tolerance=0.10)
    assert is_stable([[1.0], [1.0]], needed=2, tolerance=0.10)


def test_an_empty_window_is_not_stable() -> None:
    assert not is_stable([[1.0], [1.0], []], needed=3, tolerance=0.10)


def test_the_interval_holds_the_ratio_and_narrows_with_samples() -> None:
    rng = np.random.default_rng(1)
    slow, fast = rng.normal(20, 1, 400), rng.normal(10, 1, 400)
    low, high = median_ratio_interval(slow.tolist(), fast.tolist())
    few_low, few_high = median_ratio_interval(slow[:10].tolist(), fast[:10].tolist())
    assert low < 2 < high
    assert high - low < 0.1 < few_high - few_low


@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_the_interval_is_that_of_medians_of_samples_drawn_anew(count: int) -> None:
    rng = np.random.default_rng(7)
    samples = rng.exponential(10, count)
    drawn = np.median(rng.choice(samples, (20_000, count)), axis=1)
    against_one = median_ratio_interval(samples.tolist(), [1.0])
    assert against_one == pytest.approx(np.percentile(drawn, [2.5, 97.5]), rel=0.1)


def test_the_interval_is_the_same_every_time_and_a_point_for_equal_samples() -> None:
    samples = [3.0, 4.0, 5.0]
    assert median_ratio_interval(samples, samples) == median_ratio_interval(samples, samples)
    assert median_ratio_interval([4.0] * 3, [2.0] * 3) == (2.0, 2.0)
