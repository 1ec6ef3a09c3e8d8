"""Clips: films made from photographs, real ones, and the motion that goes with their frames."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from deblur_deploy.config import CameraConfig, ClipConfig, FitConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data.clips import PLANES, FilmedClips, SequenceClips, film
from deblur_deploy.data.films import load_films
from deblur_deploy.data.layouts import PairFiles, films_of
from deblur_deploy.quality.metrics import psnr_db

STILL = CameraConfig(
    length_px=(0.0, 0.0), roll_deg=0.0, parallax=0.0, objects=(0, 0), read_noise=0.0, photons=(1e9, 1e9),
    sharpen_share=0.0, jpeg_share=0.0, highlight_gain=0.0,
)  # fmt: skip
MOVING = dataclasses.replace(STILL, length_px=(10.0, 10.0))
CLIP = ClipConfig(frames=3, exposure=(0.5, 0.5))
FIT = FitConfig(steps=4, batch=1, crop=64)


def test_a_camera_at_rest_films_the_photograph(photo):
    made = film(photo, STILL, CLIP, np.random.default_rng(1))

    assert len(made.blurred) == len(made.sharp) == 3
    for frame in (*made.blurred, *made.sharp):
        assert np.abs(frame.astype(int) - photo).max() <= 1


def test_a_moving_camera_blurs_every_frame_and_moves_between_them(photo):
    made = film(photo, MOVING, CLIP, np.random.default_rng(2))

    inside = np.s_[24:-24, 24:-24]
    for blurred, sharp in zip(made.blurred, made.sharp, strict=True):
        assert psnr_db(blurred[inside], sharp[inside]) < 30  # blurred, and about the same place
    assert psnr_db(made.sharp[0][inside], made.sharp[1][inside]) < 25
    shift, _ = cv2.phaseCorrelate(*(frame.mean(axis=2, dtype=np.float64) for frame in made.sharp[:2]))
    assert 4 < np.hypot(*shift) < 14


def test_one_seed_is_one_film(photo):
    first, second = (film(photo, CameraConfig(length_px=(2.0, 8.0)), CLIP, np.random.default_rng(5)) for _ in range(2))

    assert all(np.array_equal(a, b) for a, b in zip(first.blurred, second.blurred, strict=True))


def test_a_clip_has_the_planes_of_its_frames_and_the_motion_between_them(photo):
    large = cv2.resize(photo, (416, 320), interpolation=cv2.INTER_CUBIC)
    clips = FilmedClips([large], FIT, CLIP, MOVING, ["a.png"])

    blurred, sharp = clips[0]

    assert blurred.shape == sharp.shape == (3 * PLANES, 64, 64)
    assert len(clips) == 4
    frames = sharp.split(PLANES)
    assert 0 <= float(frames[0][:3].min()) < float(frames[0][:3].max()) <= 1
    assert not frames[0][3:].any()  # nothing was before the first frame
    assert float(frames[1][5].mean()) > 0.5
    motion = float(frames[1][3:5].square().sum(0).sqrt().mean()) * 4
    assert 4 < motion < 16  # 10 px of path between two frames, as a quarter of the size has it
    again, _ = clips[0]
    assert bool((again == blurred).all())
    assert not bool((clips[1][0] == blurred).all())


def test_a_photograph_smaller_than_a_clip_with_its_path_is_refused(photo):
    with pytest.raises(ConfigError, match=r"a\.png with a side of 160 px is too small for clips of 144 px"):
        FilmedClips([photo], dataclasses.replace(FIT, crop=144), CLIP, MOVING, ["a.png"])


def test_clips_of_films_are_consecutive_frames_forwards_or_backwards(photo):
    frames = [np.full((64, 64, 3), 20 * index, np.uint8) for index in range(6)]
    clips = SequenceClips([[(frame, frame) for frame in frames]], FIT, CLIP, ["walk"])

    seen = set()
    for index in range(4):
        blurred, _ = clips[index]
        codes = [round(float(frame[0].mean()) * 255) // 20 for frame in blurred.split(PLANES)]
        seen.add(codes[1] - codes[0])
        assert codes[2] - codes[1] == codes[1] - codes[0]
    assert seen <= {1, -1}


def test_a_film_shorter_than_a_clip_is_refused(photo):
    with pytest.raises(ConfigError, match="walk has 2 frames, too few for clips of 3"):
        SequenceClips([[(photo, photo)] * 2], FIT, CLIP, ["walk"])


def test_pairs_are_films_by_their_sequences(tmp_path):
    names = ("a/1.png", "a/2.png", "b/1.png")
    pairs = [PairFiles(name, tmp_path / "blur" / "0.png", tmp_path) for name in names]
    flat = [PairFiles(name, tmp_path / "blur" / name, tmp_path) for name in ("1.png", "2.png")]

    assert {name: len(frames) for name, frames in films_of(pairs).items()} == {"a": 2, "b": 1}
    assert [len(frames) for frames in films_of(flat).values()] == [2]


def test_films_to_evaluate_on_are_taken_or_made(photo, tmp_path):
    for folder in ("blur", "sharp"):
        (tmp_path / "taken" / folder).mkdir(parents=True)
        for name in ("0.png", "1.png"):
            save_rgb(tmp_path / "taken" / folder / name, photo)
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "a.png", photo)

    (taken,) = load_films(tmp_path / "taken")
    (made,) = load_films(tmp_path / "photos")

    assert [pair.name for pair in taken] == ["0.png", "1.png"]
    assert len(made) == 8
    assert made[0].sharp.shape == (128, 128, 3)
    assert made[3].name == "a.png#3"
