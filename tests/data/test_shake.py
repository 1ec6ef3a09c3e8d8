"""Synthetic shake: repeatable, aligned, faithful to light, and the same as averaging warped frames one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.config import ShakeConfig
from deblur_deploy.data.shake import linear_blur, shake, shake_path

Photo = NDArray[np.uint8]

CLEAN = ShakeConfig(foreground_probability=0.0, highlight_gain=0.0, noise=False)
"""Motion alone, so that what comes out can be worked out by hand."""

STILL = ShakeConfig(length_px=(0.0, 0.0), roll_deg=0.0, foreground_probability=0.0, highlight_gain=0.0, noise=False)


def blur(photo: Photo, config: ShakeConfig, seed: int) -> Photo:
    return shake(photo, config, np.random.default_rng(seed)).blurred


def to_linear(codes: Photo) -> NDArray[np.float64]:
    """IEC 61966-2-1, sRGB code to linear light."""
    v = codes / 255.0
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def to_codes(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1, linear light to (unrounded) sRGB code."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-12) ** (1 / 2.4) - 0.055)


def average_warped_frames(photo: Photo, path: NDArray[np.float64]) -> NDArray[np.float64]:
    """The slow way: rotate and shift the photograph once per pose, bilinearly, and average in linear light."""
    linear = to_linear(photo)
    height, width = photo.shape[:2]
    center_y, center_x = (height - 1) / 2, (width - 1) / 2
    y, x = np.mgrid[:height, :width].astype(np.float64)
    total = np.zeros_like(linear)
    for dx, dy, roll in path:
        cos, sin = math.cos(roll), math.sin(roll)
        source_x = np.clip(center_x + cos * (x - center_x) - sin * (y - center_y) + dx, 0, width - 1.001)
        source_y = np.clip(center_y + sin * (x - center_x) + cos * (y - center_y) + dy, 0, height - 1.001)
        left, top = source_x.astype(int), source_y.astype(int)
        across, down = (source_x - left)[..., None], (source_y - top)[..., None]
        upper = linear[top, left] * (1 - across) + linear[top, left + 1] * across
        lower = linear[top + 1, left] * (1 - across) + linear[top + 1, left + 1] * across
        total += upper * (1 - down) + lower * down
    return to_codes(total / len(path))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("roll_deg", [0.0, 0.5])
def test_it_equals_the_average_of_warped_frames(photo: Photo, seed: int, roll_deg: float) -> None:
    config = ShakeConfig((6.0, 12.0), roll_deg, foreground_probability=0.0, highlight_gain=0.0, noise=False)
    path = shake_path(config, np.random.default_rng(seed))
    difference = np.abs(blur(photo, config, seed) - average_warped_frames(photo, path))[14:-14, 14:-14]
    assert difference.mean() < 0.35  # rounding alone gives 0.25
    assert difference.max() < 2


def test_the_same_seed_gives_the_same_bytes(photo: Photo) -> None:
    config = ShakeConfig(foreground_probability=0.5)
    assert blur(photo, config, 7).tobytes() == blur(photo, config, 7).tobytes()


def test_other_seeds_give_other_pictures(photo: Photo) -> None:
    assert len({blur(photo, CLEAN, seed).tobytes() for seed in range(5)}) == 5


def test_the_sharp_picture_is_handed_back_untouched(photo: Photo) -> None:
    before = photo.copy()
    pair = shake(photo, ShakeConfig(), np.random.default_rng(0))
    assert np.array_equal(pair.sharp, before)
    assert pair.blurred.shape == before.shape
    assert pair.blurred.dtype == np.uint8


def test_without_motion_every_code_comes_back(photo: Photo) -> None:
    every_code = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(blur(every_code, STILL, 0), every_code)
    assert np.abs(blur(photo, STILL, 3).astype(int) - photo).max() <= 1


@pytest.mark.parametrize("code", [0, 1, 12, 128, 240, 255])
def test_a_flat_picture_stays_flat(code: int) -> None:
    flat = np.full((40, 50, 3), code, np.uint8)
    assert np.array_equal(blur(flat, ShakeConfig(noise=False), code), flat)


@pytest.mark.parametrize("seed", range(6))
def test_a_point_of_light_keeps_its_place_and_its_light(seed: int) -> None:
    """The centroid of the streak is where the point was: sharp and blurred pictures are aligned."""
    point = np.zeros((41, 61, 3), np.uint8)
    point[20, 30] = 255
    light = to_linear(blur(point, CLEAN, seed))[..., 1]
    y, x = np.mgrid[:41, :61]
    assert abs((light * y).sum() / light.sum() - 20) < 0.05
    assert abs((light * x).sum() / light.sum() - 30) < 0.05
    assert light.sum() == pytest.approx(1, abs=0.02)


def test_the_best_match_with_the_sharp_picture_is_at_no_shift(photo: Photo) -> None:
    inner = np.s_[20:-20, 20:-20]
    errors = np.zeros((5, 5))
    for seed in range(8):
        blurred = blur(photo, CLEAN, seed).astype(float)
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                shifted = np.roll(photo, (dy, dx), axis=(0, 1)).astype(float)
                errors[dy + 2, dx + 2] += ((blurred - shifted)[inner] ** 2).mean()
    assert np.unravel_index(errors.argmin(), errors.shape) == (2, 2)


@pytest.mark.parametrize(("scale", "add"), [(0.3, 0), (0.4, 140)], ids=["dark", "bright"])
@pytest.mark.parametrize("noise", [False, True])
def test_the_mean_light_is_kept(photo: Photo, scale: float, add: int, noise: bool) -> None:
    picture = (photo * scale + add).astype(np.uint8)
    config = ShakeConfig(foreground_probability=0.0, highlight_gain=0.0, noise=noise)
    inner = np.s_[14:-14, 14:-14]
    before, after = (to_codes(to_linear(p)[inner].mean(axis=(0, 1))) for p in (picture, blur(picture, config, 1)))
    assert np.abs(before - after).max() < 1


def test_bright_spots_leave_bright_streaks() -> None:
    lamp = np.full((41, 61, 3), 20, np.uint8)
    lamp[19:22, 29:32] = 255
    plain, brightened = (
        blur(lamp, ShakeConfig((12.0, 12.0), foreground_probability=0.0, highlight_gain=gain, noise=False), 0)
        for gain in (0.0, 4.0)
    )
    assert brightened.max() > plain.max()
    assert (brightened >= plain).all()


def test_noise_has_the_strength_that_was_asked_for() -> None:
    gray = np.full((200, 200, 3), 188, np.uint8)  # linear 0.5
    config = ShakeConfig(foreground_probability=0.0, photons=(1000.0, 1000.0), read_noise=0.01)
    noisy = to_linear(blur(gray, config, 0))
    level = to_linear(gray)[0, 0, 0]
    assert noisy.mean() == pytest.approx(level, abs=5e-4)
    assert noisy.std() == pytest.approx(math.sqrt(level / 1000 + 0.01**2), rel=0.02)


def test_a_foreground_moves_on_its_own(photo: Photo) -> None:
    always = ShakeConfig(foreground_probability=1.0, highlight_gain=0.0, noise=False)
    different = (blur(photo, always, 2) != blur(photo, CLEAN, 2)).any(axis=-1)
    assert 0.05 < different.mean() < 0.9


@pytest.mark.parametrize("seed", range(5))
def test_the_path_keeps_to_its_ranges_and_is_centred(seed: int) -> None:
    config = ShakeConfig(length_px=(5.0, 9.0), roll_deg=0.4, frames=(10, 14))
    path = shake_path(config, np.random.default_rng(seed))
    assert 10 <= len(path) <= 14
    extent = np.ptp(path, axis=0)
    assert 5.0 <= math.hypot(extent[0], extent[1]) <= 9.0 + 1e-9
    assert math.degrees(extent[2]) <= 0.4 + 1e-9
    assert np.abs(path.mean(axis=0)).max() < 1e-12


def test_a_single_frame_is_sharp(photo: Photo) -> None:
    one = ShakeConfig(frames=(1, 1), foreground_probability=0.0, highlight_gain=0.0, noise=False)
    assert np.array_equal(blur(photo, one, 0), photo)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 2)])
def test_a_picture_smaller_than_the_path_is_blurred_too(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert blur(picture, ShakeConfig(), 0).shape == picture.shape


def test_without_motion_even_highlights_stay_as_they_are() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(4, 0).repeat(4, 1)
    image = np.stack([codes] * 3, axis=-1)
    still = ShakeConfig(length_px=(0.0, 0.0), roll_deg=0.0, foreground_probability=0.0, noise=False)

    blurred = shake(image, still, np.random.default_rng(0)).blurred

    assert np.abs(blurred.astype(int) - image).max() <= 1


@pytest.mark.parametrize("angle_deg", [0.0, 90.0, 180.0, 45.0, 300.0])
def test_a_straight_blur_spreads_a_point_evenly_along_a_line(angle_deg: float) -> None:
    point = np.zeros((61, 61, 3), np.uint8)
    point[30, 30] = 255
    light = to_linear(linear_blur(point, 20.0, angle_deg))[..., 0]
    y, x = np.mgrid[:61, :61] - 30
    along = x * math.cos(math.radians(angle_deg)) + y * math.sin(math.radians(angle_deg))
    assert light.sum() == pytest.approx(1, abs=0.05)
    assert abs((light * along).sum()) < 0.1
    assert (light * along**2).sum() / light.sum() == pytest.approx(20**2 / 12, rel=0.1)  # variance of an even line
    across = x * math.sin(math.radians(angle_deg)) - y * math.cos(math.radians(angle_deg))
    assert (light * across**2).sum() / light.sum() < 0.3


def test_a_straight_blur_keeps_a_flat_picture() -> None:
    flat = np.full((40, 50, 3), 77, np.uint8)
    assert np.array_equal(linear_blur(flat, 12.5, 33.0), flat)


def test_a_straight_blur_is_the_average_of_shifted_frames(photo: Photo) -> None:
    along = np.linspace(-4.5, 4.5, 19)
    path = np.column_stack([along * math.cos(0.7), along * math.sin(0.7), np.zeros(19)])
    difference = np.abs(linear_blur(photo, 9.0, math.degrees(0.7)) - average_warped_frames(photo, path))[8:-8, 8:-8]
    assert difference.mean() < 0.35  # rounding alone gives 0.25
    assert difference.max() < 2
