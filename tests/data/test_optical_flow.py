"""Motion between frames: found where there is some, trusted where it leads back, and a cut where nothing does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.data.optical_flow import find_motion, quarter_gray
from deblur_deploy.network.steps import FLOW_STRIDE


def moved(photo: NDArray[np.uint8], right: int, down: int) -> NDArray[np.uint8]:
    """What a window of a fixed size shows of a larger picture that moves under it."""
    height, width = 320, 384
    large = cv2.resize(photo, (width + 128, height + 128), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[64 - down : 64 - down + height, 64 - right : 64 - right + width])


@pytest.mark.parametrize(("right", "down"), [(0, 0), (8, 0), (0, -12), (20, 16)])
def test_a_shift_is_found_in_pixels_of_a_quarter_of_the_size(photo, right, down):
    before, now = quarter_gray(moved(photo, 0, 0)), quarter_gray(moved(photo, right, down))

    motion = find_motion(now, before)

    assert motion.flow.shape == (2, 80, 96)
    assert motion.trust.shape == (1, 80, 96)
    inside = motion.trust[0] > 0
    assert inside.mean() > 0.6
    assert not motion.is_cut
    # What is here now was further left and further up.
    found = motion.flow[:, inside].mean(axis=1)
    assert found == pytest.approx((-right / FLOW_STRIDE, -down / FLOW_STRIDE), abs=0.2)


def test_what_came_in_from_outside_is_not_trusted(photo):
    motion = find_motion(quarter_gray(moved(photo, 40, 0)), quarter_gray(moved(photo, 0, 0)))

    assert motion.trust[0, :, :8].mean() < 0.1  # ten columns came in on the left
    assert motion.trust[0, :, 24:-8].mean() > 0.7


def test_two_scenes_are_a_cut(photo):
    rng = np.random.default_rng(0)
    other = cv2.GaussianBlur(rng.integers(0, 256, (320, 384, 3), dtype=np.uint8), (0, 0), 6)
    other = cv2.normalize(other, None, 0, 255, cv2.NORM_MINMAX)

    assert find_motion(quarter_gray(other), quarter_gray(moved(photo, 0, 0))).is_cut


def test_a_frame_too_small_for_motion_trusts_nothing():
    small = np.zeros((15, 40), np.uint8)

    motion = find_motion(small, small)

    assert not motion.trust.any()
    assert not motion.flow.any()


def test_quarter_gray_is_the_mean_of_the_luma():
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[:4, :4] = 200
    frame[0, 0] = 0

    assert quarter_gray(frame)[0, 0] == round(200 * 15 / 16)
    assert quarter_gray(frame)[1, 1] == 0
