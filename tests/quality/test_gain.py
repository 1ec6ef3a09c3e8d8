"""The share of a generator's gain that compression keeps, and PSNRs that are infinite."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from deblur_deploy.core.artifact import Step
from deblur_deploy.core.plain_data import to_json, without_infinity
from deblur_deploy.quality.gain import (
    TOO_SMALL,
    format_db,
    format_share,
    gain_kept,
    gain_of,
    lost_db,
    same_pairs,
)


def step(stage: str, **figures: Any) -> Step:
    return Step(stage, {}, {}, None, "2026-01-02T03:04:05.000000+00:00", figures)


@pytest.mark.parametrize(
    ("psnr_db", "original_db", "share"),
    [
        (26.5, 27.0, 0.75),
        (27.0, 27.0, 1.0),
        (27.5, 27.0, 1.25),
        (24.5, 27.0, -0.25),  # worse than doing nothing
        (25.1, 25.19, None),  # a gain of 0.19 dB is too small
        (25.15, 25.3, 0.5),
        (24.9, 24.8, None),  # the original does harm
        (math.inf, math.inf, 1.0),
        (None, None, 1.0),
        (62.5, None, 0.5),  # equal pictures count as 100 dB
        (None, 62.5, 2.0),
    ],
)
def test_the_share_is_of_the_gain_over_the_blurred_pictures(
    psnr_db: float | None, original_db: float | None, share: float | None
) -> None:
    found = gain_kept(psnr_db, original_db, 25.0)
    assert found == (None if share is None else pytest.approx(share))


def test_a_share_of_nothing_is_called_so() -> None:
    assert [format_share(share) for share in (0.914, -0.2, 1.0, None)] == ["91%", "-20%", "100%", TOO_SMALL]
    assert [format_db(value) for value in (25.456, None, math.inf)] == ["25.46", "∞", "∞"]
    assert gain_kept(26.0, 27.0, math.inf) is None  # the blurred pictures are the sharp ones


def test_losses_are_numbers_whatever_was_equal() -> None:
    assert lost_db(30.0, 29.5) == 0.5
    assert lost_db(math.inf, None) == 0.0
    assert lost_db(None, 30.0) == 70.0
    assert lost_db(30.0, None) == -70.0


def test_two_evaluations_are_of_the_same_pairs_where_the_blurred_ones_score_the_same() -> None:
    first = {"psnr_db": 27.0, "psnr_blurred_db": 25.0}
    assert same_pairs(first, {"psnr_db": 26.0, "psnr_blurred_db": 25.0 + 1e-9})
    assert same_pairs(first, {"psnr_db": 26.0})  # an old manifest
    assert not same_pairs(first, {"psnr_db": 26.0, "psnr_blurred_db": 24.0})
    assert not same_pairs(first, {"psnr_db": 26.0, "psnr_blurred_db": None})
    assert not same_pairs(first, {"psnr_blurred_db": 25.0})


def test_the_original_is_what_compression_began_with() -> None:
    trained = step("train", psnr_db=27.0, psnr_blurred_db=25.0)
    pruned = step("prune", psnr_db=26.5, psnr_blurred_db=25.0)
    quality = {"psnr_db": 26.0, "psnr_blurred_db": 25.0}
    assert gain_of((trained, pruned, step("qat", **quality)), quality) == {"psnr_original_db": 27.0, "gain_kept": 0.5}
    assert gain_of((trained,), quality) == {}  # nothing was compressed
    elsewhere = {"psnr_db": 26.0, "psnr_blurred_db": 24.0}
    assert gain_of((trained, pruned), elsewhere) == {}  # the original was never measured on these pairs
    told = step("prune", psnr_db=26.5, psnr_blurred_db=24.0, psnr_original_db=28.0)
    assert gain_of((trained, told), elsewhere) == {"psnr_original_db": 28.0, "gain_kept": 0.5}
    equal = step("prune", psnr_db=None, psnr_blurred_db=24.0, psnr_original_db=None)
    assert gain_of((trained, equal), {"psnr_db": None, "psnr_blurred_db": 24.0}) == {
        "psnr_original_db": None,
        "gain_kept": 1.0,
    }


def test_a_pruned_network_that_was_trained_on_is_an_original_of_its_own() -> None:
    large = step("train", psnr_db=28.0, psnr_blurred_db=24.0)
    pruned = step("prune", psnr_db=25.0, psnr_blurred_db=24.0, psnr_original_db=28.0)
    small = step("train", psnr_db=26.0, psnr_blurred_db=24.0)
    quality = {"psnr_db": 25.0, "psnr_blurred_db": 24.0}
    assert gain_of((large, pruned, small), quality) == {}
    history = (large, pruned, small, step("prune", **quality))
    assert gain_of(history, quality) == {"psnr_original_db": 26.0, "gain_kept": 0.5}


def test_json_has_null_for_infinity_and_refuses_nan() -> None:
    plain = {"a": (1.0, math.inf), "b": {"c": -math.inf, "d": math.nan}, "e": None, "f": True}
    assert without_infinity(plain, nan_too=True) == {
        "a": [1.0, None],
        "b": {"c": None, "d": None},
        "e": None,
        "f": True,
    }
    assert json.loads(to_json({"a": math.inf})) == {"a": None}
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": math.nan})
