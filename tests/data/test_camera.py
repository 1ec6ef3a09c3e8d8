"""Blur as cameras make it: repeatable, aligned, true to its domain, and no further than its path."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deblur_deploy.config import CameraConfig, FitConfig, ShakeConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.data import camera
from deblur_deploy.data.camera import camera_path, expose
from deblur_deploy.data.crops import BlurredCrops

Photo = NDArray[np.uint8]

CLEAN = CameraConfig(
    length_px=(9.0, 9.0),
    roll_deg=0.0,
    parallax=0.0,
    objects=(0, 0),
    discrete_share=0.0,
    code_share=1.0,
    photons=(1e12, 1e12),
    read_noise=0.0,
    sharpen_share=0.0,
    jpeg_share=0.0,
)
"""Motion alone, averaged in code values, so that what comes out can be worked out by hand."""


def blur(photo: Photo, config: CameraConfig, seed: int = 1) -> Photo:
    return expose(photo, config, np.random.default_rng(seed)).blurred


def with_settings(**settings: object) -> CameraConfig:
    return dataclasses.replace(CLEAN, **settings)  # type: ignore[arg-type]


def edge() -> Photo:
    """Black on the left, white on the right."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 48:] = 255
    return picture


def test_the_same_seed_gives_the_same_bytes(photo: Photo) -> None:
    first, again, other = (blur(photo, CameraConfig(), seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_still_and_clean_camera_changes_nothing(photo: Photo) -> None:
    for code_share in (0.0, 1.0):
        still = with_settings(length_px=(0.0, 0.0), code_share=code_share, highlight_gain=0.0)
        assert np.abs(blur(photo, still).astype(int) - photo).max() <= 1


@pytest.mark.parametrize("code_share", [0.0, 1.0], ids=["linear light", "codes"])
def test_it_equals_the_average_of_shifted_frames(
    photo: Photo, code_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts = [(-3, 1), (0, 0), (2, -2), (1, 1)]
    monkeypatch.setattr(camera, "camera_path", lambda *_: np.array([(*shift, 0.0) for shift in shifts]))
    discrete = with_settings(discrete_share=1.0, discrete_frames=(4, 4), response=(2.0, 2.0), highlight_gain=0.0)
    blurred = blur(photo, dataclasses.replace(discrete, code_share=code_share))

    light = (photo / 255.0) ** (1 if code_share else 2)
    # A frame at (dx, dy) shows at each pixel what lies that far to the right and below.
    mean = np.mean([np.roll(light, (-dy, -dx), axis=(0, 1)) for dx, dy in shifts], axis=0)
    wanted = 255 * mean ** (1 if code_share else 0.5)
    inner = np.s_[4:-4, 4:-4]
    assert np.abs(blurred[inner] - wanted[inner]).max() <= 0.51


@pytest.mark.parametrize("seed", range(6))
def test_a_path_is_as_long_as_it_was_asked_for_and_centred(seed: int) -> None:
    path = camera_path(17.0, 24, CameraConfig(), np.random.default_rng(seed))
    assert path.shape == (24, 3)
    assert np.hypot(*(path[:, :2].max(axis=0) - path[:, :2].min(axis=0))) == pytest.approx(17.0)
    assert np.abs(path.mean(axis=0)).max() < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_blur_reaches_no_further_than_the_path(seed: int) -> None:
    touched = np.flatnonzero((blur(edge(), CLEAN, seed) != edge()).any(axis=(0, 2)))
    assert touched.size == 0 or (touched.min() >= 48 - 10 and touched.max() <= 48 + 10)


def test_an_edge_stays_where_it_is() -> None:
    """The sharp photograph is aligned with the blurred one: light lost on one side is gained on the other."""
    for seed in range(6):
        moved = blur(edge(), CLEAN, seed).astype(float) - edge()
        assert abs(moved.mean()) < 1.5


def test_an_average_in_linear_light_is_brighter_than_one_in_codes() -> None:
    codes, light = (blur(edge(), with_settings(code_share=share, highlight_gain=0.0)) for share in (1.0, 0.0))
    assert light.mean() > codes.mean() + 1


def test_clipped_highlights_smear_in_linear_light() -> None:
    lamp = np.full((64, 64, 3), 30, np.uint8)
    lamp[30:33, 30:33] = 255
    plain, bright = (blur(lamp, with_settings(code_share=0.0, highlight_gain=gain)) for gain in (0.0, 4.0))
    assert bright.mean() > plain.mean()


def test_far_parts_move_less(photo: Photo) -> None:
    same, deep = (
        np.mean([np.abs(blur(photo, with_settings(parallax=share), n) - photo.astype(float)).mean() for n in range(8)])
        for share in (0.0, 1.0)
    )
    assert deep < same


def test_objects_move_on_paths_of_their_own(photo: Photo) -> None:
    alone, crowd = (with_settings(length_px=(0.0, 20.0), objects=(count, count)) for count in (0, 2))
    assert not np.array_equal(blur(photo, alone, 5), blur(photo, crowd, 5))


def test_few_frames_are_copies_and_a_smooth_path_is_a_streak() -> None:
    dot = np.zeros((80, 80, 3), np.uint8)
    dot[40, 40] = 255
    long = with_settings(length_px=(24.0, 24.0), bend_rad=0.0)
    few = dataclasses.replace(long, discrete_share=1.0, discrete_frames=(8, 8))
    lit = [int((blur(dot, config, 2)[..., 0] > 4).sum()) for config in (few, long)]
    assert lit[0] < 8 * 5
    assert lit[1] >= 20


def test_noise_is_as_strong_as_its_photons() -> None:
    gray = np.full((128, 128, 3), 128, np.uint8)
    noisy = blur(gray, with_settings(length_px=(0.0, 0.0), photons=(1000.0, 1000.0)))
    assert noisy.std() == pytest.approx(255 * np.sqrt(128 / 255 / 1000), rel=0.05)


def test_jpeg_comes_last(photo: Photo) -> None:
    plain = blur(photo, CLEAN)
    pressed = blur(photo, with_settings(jpeg_share=1.0, jpeg_quality=(70, 70)))
    file = io.BytesIO()
    Image.fromarray(plain).save(file, "JPEG", quality=70)
    # Two libraries of JPEG, one picture; with red and blue exchanged the chroma planes would differ by several codes.
    assert np.abs(pressed.astype(float) - np.asarray(Image.open(file))).mean() < 1
    assert np.abs(pressed.astype(float) - plain).mean() > 2


def test_sharpening_raises_contrast_at_edges(photo: Photo) -> None:
    plain, sharpened = (blur(photo, with_settings(sharpen_share=share)) for share in (0.0, 1.0))
    assert np.abs(np.diff(sharpened.astype(int), axis=1)).mean() > np.abs(np.diff(plain.astype(int), axis=1)).mean()


def test_crops_take_either_blur(photo: Photo) -> None:
    fit = FitConfig(steps=2, batch=1, crop=64)
    exposed, shaken = (
        BlurredCrops([photo], fit, settings)[0] for settings in (CameraConfig(length_px=(2.0, 20.0)), ShakeConfig())
    )
    assert exposed[0].shape == shaken[0].shape == (3, 64, 64)
    assert not exposed[0].equal(exposed[1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length_px": (9.0, 3.0)}, "length_px is"),
        ({"length_px": (0.0, float("inf"))}, "length_px is"),
        ({"response": (0.5, 2.0)}, "response is"),
        ({"photons": (0.0, 10.0)}, "photons is"),
        ({"discrete_frames": (1, 4)}, "discrete_frames is"),
        ({"objects": (2, 1)}, "objects is"),
        ({"jpeg_quality": (70, 101)}, "jpeg_quality is"),
        ({"code_share": 1.5}, "code_share is"),
        ({"parallax": -0.1}, "parallax is"),
        ({"bend_rad": -1.0}, "bend_rad is"),
        ({"read_noise": float("nan")}, "read_noise is"),
    ],
)
def test_settings_that_make_no_blur_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CameraConfig(**settings)  # type: ignore[arg-type]
