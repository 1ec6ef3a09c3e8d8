"""Registration undoes what it is made for, and leaves the rest alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.core.errors import VerificationError
from deblur_deploy.data.align import _find_homography, _positions, _sample_cubic, _smooth, align
from deblur_deploy.quality.metrics import psnr_db

Photo = NDArray[np.uint8]

MOVED = np.array([[1.004, 0.006, 1.7], [-0.005, 0.998, -1.2], [1e-5, -8e-6, 1.0]])


def moved(photo: Photo, homography: NDArray[np.float64], gain: float = 1.0) -> Photo:
    """The photograph as a camera elsewhere sees it."""
    x, y = _positions(np.linalg.inv(homography), photo.shape)
    return np.rint(np.clip(gain * _sample_cubic(photo.astype(np.float64), x, y), 0, 255)).astype(np.uint8)


@pytest.fixture
def smooth(photo: Photo) -> Photo:
    """What a lens gives: no detail of a single pixel, which no interpolation could bring back."""
    planes = [_smooth(_smooth(photo[..., c].astype(np.float64))) for c in range(3)]
    return np.rint(np.stack(planes, axis=-1) * 0.8).astype(np.uint8)


def test_a_known_homography_is_found(smooth: Photo) -> None:
    gray = [p.astype(np.float64).mean(axis=-1) for p in (moved(smooth, MOVED), smooth)]
    found = _find_homography(_smooth(gray[0]), _smooth(gray[1]), "a")
    x, y = _positions(found, smooth.shape)
    wanted_x, wanted_y = _positions(MOVED, smooth.shape)
    assert np.hypot(x - wanted_x, y - wanted_y).max() < 0.1


@pytest.mark.parametrize("gain", [1.0, 0.85])
def test_motion_and_exposure_are_undone(smooth: Photo, gain: float) -> None:
    elsewhere = moved(smooth, MOVED, gain)
    registered, covered = align(elsewhere, smooth, "a")
    assert psnr_db(elsewhere, smooth) < 30
    assert psnr_db(registered, smooth, covered) > 40
    assert 0.95 < covered.mean() < 1


def test_an_aligned_picture_stays_as_it_is(photo: Photo) -> None:
    registered, covered = align(photo, photo, "a")
    assert covered.all()
    assert np.abs(registered.astype(int) - photo).max() <= 1


def test_cubic_samples_at_pixels_are_the_pixels_and_borders_are_reflected(photo: Photo) -> None:
    image = photo.astype(np.float64)
    height, width = photo.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    np.testing.assert_allclose(_sample_cubic(image, x, y), image)
    np.testing.assert_allclose(_sample_cubic(image, -1 - x, y), image)


def test_a_ramp_is_interpolated_as_keys_has_it() -> None:
    """By hand, at a half: (0.09375 of each outer pixel less than) 0.59375 of each inner one."""
    image = np.zeros((1, 4, 3))
    image[0, :, 0] = (0, 100, 200, 400)
    x = np.array([[1.5, 1.5, 1.5, 1.5]])
    expected = -0.09375 * (0 + 400) + 0.59375 * (100 + 200)
    assert _sample_cubic(image, x, np.zeros((1, 4)))[0, 0, 0] == pytest.approx(expected)


def test_flat_pictures_cannot_be_registered() -> None:
    flat = np.full((32, 32, 3), 90, np.uint8)
    with pytest.raises(VerificationError, match="night is too flat"):
        align(flat, flat, "night")


@pytest.mark.parametrize("shape", [(1, 30, 3), (30, 1, 3)])
def test_pictures_of_one_row_or_column_cannot_be_registered(shape: tuple[int, ...]) -> None:
    line = np.arange(90, dtype=np.uint8).reshape(shape)
    with pytest.raises(VerificationError, match="strip is too small"):
        align(line, line, "strip")


def test_a_search_that_runs_out_of_the_picture_says_so() -> None:
    rng = np.random.default_rng(31)
    noise, other = rng.integers(0, 255, (2, 6, 20, 3), dtype=np.uint8)
    with pytest.raises(VerificationError, match="does not match its sharp partner"):
        align(noise, other, "strangers")


def test_a_step_that_makes_it_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps to the right, of which the last is known to correlate less than the one before it."""
    correlations = iter([0.5, 0.8, 0.6])
    shift = np.array([0, 0, 0, 0, 0, 0, 1.0, 0])
    monkeypatch.setattr("deblur_deploy.data.align._ecc_step", lambda *_: (shift, next(correlations)))
    plane = np.arange(600.0).reshape(20, 30)
    assert _find_homography(plane, plane, "a")[0, 2] == 1.0
