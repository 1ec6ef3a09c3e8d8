"""Colour shift and overshoot on pictures made for it, where the right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.core.errors import VerificationError
from deblur_deploy.quality.side_effects import WINDOW, side_effects

Image8 = NDArray[np.uint8]

HEIGHT, WIDTH, EDGE = 40, 60, 30


@pytest.fixture
def step() -> Image8:
    """A bright surface beside a dark one, blurred across their edge by a box of the window's width."""
    sharp = np.where(np.arange(WIDTH + WINDOW - 1) < EDGE + WINDOW // 2, 60.0, 180.0)
    row = np.convolve(sharp, np.full(WINDOW, 1 / WINDOW), mode="valid")
    return np.rint(row)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2).astype(np.uint8)


def test_an_unchanged_picture_has_none(photo: Image8) -> None:
    effects = side_effects(photo, photo)
    assert effects.overshoot_share == 0
    assert effects.color_shift is None or effects.color_shift == (0, 0, 0)


def test_a_shift_of_colour_is_found_exactly(step: Image8) -> None:
    shifted = step + np.array([2, 0, 5], np.uint8)
    shifted[:, EDGE - 8 : EDGE + 8] = 255  # what is not flat must not count
    effects = side_effects(step, shifted)
    assert effects.color_shift == pytest.approx((2, 0, 5))
    assert 0.5 < effects.flat_share < 0.7


def test_the_true_edge_does_not_overshoot(step: Image8) -> None:
    sharp = np.where(np.arange(WIDTH) < EDGE, 60, 180).astype(np.uint8)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2)
    effects = side_effects(step, sharp)
    assert effects.overshoot_share == 0
    assert effects.color_shift == (0, 0, 0)


@pytest.mark.parametrize(("codes", "columns"), [(8, 0), (9, 3), (30, 3)])
def test_ringing_beside_an_edge_is_counted(step: Image8, codes: int, columns: int) -> None:
    ringing = step.copy()
    ringing[:, EDGE + 7 : EDGE + 9, 1] += np.uint8(codes)  # bright beside the bright side
    ringing[:, EDGE - 9, 2] -= np.uint8(codes)  # dark beside the dark side
    assert side_effects(step, ringing).overshoot_share == pytest.approx(columns / WIDTH)


def test_where_nothing_is_flat_there_is_no_shift() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8)
    effects = side_effects(noise, noise)
    assert (effects.flat_share, effects.color_shift) == (0, None)


def test_a_picture_smaller_than_the_window_is_measured() -> None:
    dot = np.full((1, 2, 3), 7, np.uint8)
    assert side_effects(dot, dot + np.uint8(1)).color_shift == (1, 1, 1)


def test_pictures_of_two_sizes_are_refused(photo: Image8) -> None:
    with pytest.raises(VerificationError, match="cannot be compared"):
        side_effects(photo, photo[1:])
