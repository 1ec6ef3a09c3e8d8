"""PSNR and both SSIMs against figures worked out by hand, scikit-image, and a brute-force window."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.core.errors import VerificationError
from deblur_deploy.quality.decibels import EQUAL_DB, mean_psnr_db
from deblur_deploy.quality.metrics import both_ssims, psnr_db, ssim_matlab, ssim_skimage

Image8 = NDArray[np.uint8]


def disturbed(photo: Image8, seed: int, strength: float) -> Image8:
    noise = np.random.default_rng(seed).normal(0, strength, photo.shape)
    return np.clip(photo + noise, 0, 255).astype(np.uint8)


def brute_force_ssim(image: Image8, reference: Image8) -> float:
    """Wang et al., equation 13, voxel by voxel over an 11x11x11 Gaussian window on an edge-padded volume."""
    reach = 5
    taps = np.arange(-reach, reach + 1)
    z, y, x = np.meshgrid(taps, taps, taps, indexing="ij")
    window = np.exp(-(z**2 + y**2 + x**2) / (2 * 1.5**2))
    window /= window.sum()
    a, b = (np.pad(v.astype(np.float64), reach, mode="edge") for v in (image, reference))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for index in np.ndindex(*image.shape):
        block = tuple(slice(i, i + 2 * reach + 1) for i in index)
        p, q = a[block], b[block]
        mean_p, mean_q = (window * p).sum(), (window * q).sum()
        var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
        covariance = (window * (p - mean_p) * (q - mean_q)).sum()
        structure = (2 * covariance + c2) / (var_p + var_q + c2)
        values.append((2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1) * structure)
    return float(np.mean(values))


def test_psnr_of_known_errors() -> None:
    zeros = np.zeros((4, 5, 3), np.uint8)
    assert psnr_db(np.full_like(zeros, 255), zeros) == 0
    assert psnr_db(np.full_like(zeros, 1), zeros) == pytest.approx(48.1308036)
    one_wrong = zeros.copy()
    one_wrong[2, 3, 1] = 16  # mean squared error 256 / 60
    assert psnr_db(one_wrong, zeros) == pytest.approx(10 * math.log10(255**2 * 60 / 256))
    assert psnr_db(zeros, zeros) == math.inf


def test_equal_pictures_leave_the_mean_a_number() -> None:
    assert mean_psnr_db([20.0, 40.0]) == 30.0
    assert mean_psnr_db([20.0, math.inf]) == (20 + EQUAL_DB) / 2
    assert mean_psnr_db([math.inf, math.inf]) == math.inf


def test_psnr_does_not_wrap_around_below_zero() -> None:
    dark, light = np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 20, np.uint8)
    assert psnr_db(dark, light) == psnr_db(light, dark) == pytest.approx(28.1308036)


@pytest.mark.parametrize("strength", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("size", [(160, 208), (11, 40), (11, 11)])
def test_ssim_skimage_is_scikit_images(photo: Image8, strength: float, size: tuple[int, int]) -> None:
    skimage_metrics = pytest.importorskip("skimage.metrics")
    reference = photo[: size[0], : size[1]]
    image = disturbed(reference, 1, strength)
    expected = skimage_metrics.structural_similarity(
        image,
        reference,
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim_skimage(image, reference) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("top", "left", "strength"), [(0, 0, 4.0), (60, 90, 20.0), (100, 150, 60.0)])
def test_ssim_matlab_is_the_volume_ssim(photo: Image8, top: int, left: int, strength: float) -> None:
    reference = photo[top : top + 13, left : left + 17]
    image = disturbed(reference, 2, strength)
    assert ssim_matlab(image, reference) == pytest.approx(brute_force_ssim(image, reference), abs=1e-6)


def test_the_two_conventions_differ(photo: Image8) -> None:
    image = disturbed(photo, 3, 15.0)
    assert ssim_matlab(image, photo) > ssim_skimage(image, photo) + 0.01


@pytest.mark.parametrize("ssim", [ssim_matlab, ssim_skimage])
def test_ssim_is_one_for_equal_pictures_and_symmetric(photo: Image8, ssim) -> None:
    image = disturbed(photo, 4, 15.0)
    assert ssim(photo, photo) == pytest.approx(1, abs=1e-12)
    assert ssim(photo, image) == pytest.approx(ssim(image, photo), abs=1e-12)
    assert 0 < ssim(photo, image) < 1


@pytest.mark.parametrize("metric", [psnr_db, ssim_matlab, ssim_skimage])
def test_pictures_of_different_sizes_cannot_be_compared(photo: Image8, metric) -> None:
    with pytest.raises(VerificationError, match="cannot be compared"):
        metric(photo, photo[:-1])


def test_a_picture_smaller_than_the_window_has_no_skimage_ssim(photo: Image8) -> None:
    with pytest.raises(VerificationError, match="30x10 is too small"):
        ssim_skimage(photo[:10, :30], photo[:10, :30])
    assert ssim_matlab(photo[:1, :1], photo[:1, :1]) == pytest.approx(1)


def test_only_the_pixels_of_a_mask_count(photo: Image8) -> None:
    spoilt = photo.copy()
    spoilt[:40] = 255 - spoilt[:40]
    mask = np.ones(photo.shape[:2], bool)
    mask[:46] = False  # and the reach of a window
    assert psnr_db(spoilt, photo) < 30
    assert psnr_db(spoilt, photo, mask) == math.inf
    assert ssim_skimage(spoilt, photo) < 1
    assert ssim_skimage(spoilt, photo, mask) == pytest.approx(1)
    assert ssim_matlab(spoilt, photo, mask) == pytest.approx(1)


def test_a_mask_of_everything_changes_nothing(photo: Image8) -> None:
    other = disturbed(photo, 3, 8.0)
    everything = np.ones(photo.shape[:2], bool)
    for metric in (psnr_db, ssim_skimage, ssim_matlab):
        assert metric(other, photo, everything) == pytest.approx(metric(other, photo))


@pytest.mark.parametrize("size", [(11, 11), (16, 37), (50, 33)])
def test_both_kinds_of_ssim_are_those_that_are_measured_alone(photo, size):
    reference = np.ascontiguousarray(photo[: size[0], : size[1]])
    image = np.clip(reference.astype(np.int16) + np.arange(size[1])[None, :, None] % 9, 0, 255).astype(np.uint8)
    mask = np.arange(size[0] * size[1]).reshape(size) % 7 > 0
    for only in (None, mask):
        assert both_ssims(image, reference, only) == (
            ssim_matlab(image, reference, only),
            ssim_skimage(image, reference, only),
        )
        assert len(set(both_ssims(image, reference, only))) == 2
