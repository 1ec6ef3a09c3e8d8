"""Training crops: the same for the same seed, cut out of the photographs, of the shape that training takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.config import FitConfig, ShakeConfig
from deblur_deploy.data.crops import ShakenCrops, crop_batches
from deblur_deploy.errors import ConfigError

Photo = NDArray[np.uint8]

STILL = ShakeConfig(length_px=(0.0, 0.0), roll_deg=0.0, foreground_probability=0.0, highlight_gain=0.0, noise=False)


def test_a_crop_depends_on_the_seed_and_its_number_alone(photo: Photo) -> None:
    first, second = (ShakenCrops([photo, photo[::-1]], 32, 20, ShakeConfig(), seed=5) for _ in range(2))
    second[11]  # asking for others in between, or in another order, changes nothing
    for index in (13, 0):
        for a, b in zip(first[index], second[index], strict=True):
            assert torch.equal(a, b)


def test_crops_and_seeds_differ(photo: Photo) -> None:
    crops = [ShakenCrops([photo], 32, 4, ShakeConfig(), seed)[index][0] for seed in (0, 1) for index in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(crops) for b in crops[:i])


def test_crops_have_the_shape_and_range_that_training_takes(photo: Photo) -> None:
    dataset = ShakenCrops([photo], 48, 3, ShakeConfig(), 0)
    assert len(dataset) == 3
    for image in dataset[0]:
        assert image.shape == (3, 48, 48)
        assert image.dtype == torch.float32
        assert 0 <= image.min() < image.max() <= 1


def test_without_motion_a_crop_is_a_piece_of_the_photograph(photo: Photo) -> None:
    photo = photo[:60, :70]  # too small to be taken at half its size
    dataset = ShakenCrops([photo], 32, 30, STILL, 0)
    views = [view for turned in (photo, photo.transpose(1, 0, 2)) for view in (turned, turned[::-1])]
    pieces = {
        np.ascontiguousarray(piece).tobytes()
        for view in views
        for flipped in (view, view[:, ::-1])
        for top in range(flipped.shape[0] - 31)
        for piece in (flipped[top : top + 32, left : left + 32] for left in range(flipped.shape[1] - 31))
    }
    for index in range(30):
        blurred, sharp = dataset[index]
        assert torch.equal(blurred, sharp)
        codes = (sharp * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        assert codes.numpy().tobytes() in pieces


def test_large_photographs_are_also_taken_at_half_size() -> None:
    # Black and white columns: at half size they average to gray.
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[:, ::2] = 255
    sharp = [ShakenCrops([stripes], 32, 40, STILL, 0)[index][1] for index in range(40)]
    gray = [bool((image - 0.5).abs().max() < 0.01) for image in sharp]
    assert 5 < sum(gray) < 35


def test_blurred_and_sharp_are_turned_together(photo: Photo) -> None:
    dataset = ShakenCrops([photo], 64, 12, ShakeConfig(), 3)
    for index in range(12):
        blurred, sharp = dataset[index]
        mirrored = min(float((blurred - sharp.flip(axis)).abs().mean()) for axis in (1, 2))
        assert float((blurred - sharp).abs().mean()) < mirrored


def test_a_photograph_smaller_than_a_crop_with_margin_is_refused(photo: Photo) -> None:
    with pytest.raises(ConfigError, match="side of 40 px is too small for crops of 32 px") as error:
        ShakenCrops([photo, photo[:40]], 32, 1, ShakeConfig(), 0)
    assert "at least 48 px" in error.value.hint


def test_there_are_as_many_batches_as_steps(photo: Photo) -> None:
    fit = FitConfig(steps=3, batch=2, crop=32)
    batches = list(crop_batches([photo], fit, ShakeConfig(), workers=0))
    assert [(blurred.shape, sharp.shape) for blurred, sharp in batches] == [((2, 3, 32, 32), (2, 3, 32, 32))] * 3
    assert list(crop_batches([photo], FitConfig(steps=0, crop=32), ShakeConfig(), workers=0)) == []


def test_worker_processes_make_the_same_batches(photo: Photo) -> None:
    fit = FitConfig(steps=2, batch=2, crop=32, seed=9)
    here, beside = (list(crop_batches([photo], fit, ShakeConfig(), workers)) for workers in (0, 1))
    for a, b in zip(here, beside, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
