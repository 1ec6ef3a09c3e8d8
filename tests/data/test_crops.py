"""Training crops: the same for the same seed, cut out of the photographs, of the shape that training takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.config import AugmentConfig, FitConfig, ShakeConfig
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.data.crops import BlurredCrops, PairedCrops, Share, batches_of, crop_batches, detail, steps_of

Photo = NDArray[np.uint8]


def shaken_crops(photos: list[Photo], crop: int, length: int, shake_config: ShakeConfig, seed: int) -> BlurredCrops:
    return BlurredCrops(photos, FitConfig(steps=length, batch=1, crop=crop, seed=seed), shake_config)


STILL = ShakeConfig(length_px=(0.0, 0.0), roll_deg=0.0, foreground_probability=0.0, highlight_gain=0.0, noise=False)


def test_a_crop_depends_on_the_seed_and_its_number_alone(photo: Photo) -> None:
    first, second = (shaken_crops([photo, photo[::-1]], 32, 20, ShakeConfig(), seed=5) for _ in range(2))
    second[11]  # asking for others in between, or in another order, changes nothing
    for index in (13, 0):
        for a, b in zip(first[index], second[index], strict=True):
            assert torch.equal(a, b)


def test_crops_and_seeds_differ(photo: Photo) -> None:
    crops = [shaken_crops([photo], 32, 4, ShakeConfig(), seed)[index][0] for seed in (0, 1) for index in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(crops) for b in crops[:i])


def test_crops_have_the_shape_and_range_that_training_takes(photo: Photo) -> None:
    dataset = shaken_crops([photo], 48, 3, ShakeConfig(), 0)
    assert len(dataset) == 3
    for image in dataset[0]:
        assert image.shape == (3, 48, 48)
        assert image.dtype == torch.float32
        assert 0 <= image.min() < image.max() <= 1


def test_without_motion_a_crop_is_a_piece_of_the_photograph(photo: Photo) -> None:
    photo = photo[:60, :70]  # too small to be taken at half its size
    dataset = shaken_crops([photo], 32, 30, STILL, 0)
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
    sharp = [shaken_crops([stripes], 32, 40, STILL, 0)[index][1] for index in range(40)]
    gray = [bool((image - 0.5).abs().max() < 0.01) for image in sharp]
    assert 5 < sum(gray) < 35


def test_of_several_candidates_the_one_with_the_most_detail_is_taken(photo: Photo) -> None:
    flat = np.full_like(photo, 128)
    fit = FitConfig(steps=30, batch=1, crop=32)
    flat_share = [
        sum(detail(np.asarray(crops[index][1].permute(1, 2, 0) * 255, np.uint8)) == 0 for index in range(30))
        for candidates in (1, 8)
        for crops in [BlurredCrops([photo, flat], dataclasses.replace(fit, candidates=candidates), STILL)]
    ]
    assert flat_share[0] > 5
    assert flat_share[1] == 0


def test_detail_is_the_mean_step_between_neighbours() -> None:
    stripes = np.zeros((4, 4, 3), np.uint8)
    stripes[:, ::2] = 100
    assert detail(stripes) == pytest.approx(50)  # 100 from column to column, 0 from row to row


def test_blurred_and_sharp_are_turned_together(photo: Photo) -> None:
    dataset = shaken_crops([photo], 64, 12, ShakeConfig(), 3)
    for index in range(12):
        blurred, sharp = dataset[index]
        mirrored = min(float((blurred - sharp.flip(axis)).abs().mean()) for axis in (1, 2))
        assert float((blurred - sharp).abs().mean()) < mirrored


def test_a_photograph_smaller_than_a_crop_with_margin_is_refused(photo: Photo) -> None:
    with pytest.raises(ConfigError, match="side of 40 px is too small for crops of 32 px") as error:
        shaken_crops([photo, photo[:40]], 32, 1, ShakeConfig(), 0)
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


PLAIN = FitConfig(steps=20, batch=1, crop=32)


def test_pairs_are_cropped_at_one_place_and_turned_together(photo: Photo) -> None:
    marked = photo // 2
    crops = PairedCrops([(marked, photo)], PLAIN)
    for index in range(20):
        blurred, sharp = crops[index]
        assert blurred.shape == sharp.shape == (3, 32, 32)
        assert torch.equal((blurred * 255).round(), ((sharp * 255).round() / 2).floor())
    assert crops.margin == 0


def test_brightness_and_contrast_change_both_pictures_alike(photo: Photo) -> None:
    gray = (photo // 4 + 96).astype(np.uint8)  # so that nothing is clipped
    plain = PairedCrops([(gray, gray)], PLAIN)
    varied = PairedCrops([(gray, gray)], PLAIN, AugmentConfig(brightness=0.2, contrast=0.2, linear_share=0.0))
    gains, spreads = [], []
    for index in range(20):
        before, (blurred, sharp) = plain[index][1], varied[index]
        assert torch.equal(blurred, sharp)
        gains.append(float(sharp.mean() / before.mean()))
        spreads.append(float(sharp.std() / before.std()) / gains[-1])
    for factors in (gains, spreads):
        assert 0.8 <= min(factors) < 0.9
        assert 1.1 < max(factors) <= 1.2001


def test_a_share_of_the_crops_gets_a_straight_blur(photo: Photo) -> None:
    crops = PairedCrops([(photo, photo)], FitConfig(steps=40, batch=1, crop=32), AugmentConfig(0.0, 0.0, 0.5))
    blurred = [not torch.equal(*crops[index]) for index in range(40)]
    assert 10 < sum(blurred) < 30
    assert crops.margin == 17


def test_the_crop_that_does_not_fit_names_the_photograph(photo: Photo) -> None:
    with pytest.raises(ConfigError, match=r"b\.png with a side of 30 px is too small for crops of 32 px"):
        PairedCrops([(photo, photo), (photo[:30], photo[:30])], PLAIN, names=["a.png", "b.png"])


def test_processes_share_each_batch_and_start_where_they_are_told(photo: Photo) -> None:
    fit = FitConfig(steps=3, batch=4, crop=32)
    crops = PairedCrops([(photo, photo)], fit)
    whole = list(batches_of(crops, 0, Share()))
    parts = [list(batches_of(crops, 0, Share(start=1, rank=rank, world=2))) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == 2
    for together, *halves in zip(whole[1:], *parts, strict=True):
        assert torch.equal(together[0], torch.cat([half[0] for half in halves]))


def test_passes_become_steps() -> None:
    assert steps_of(epochs=300, photos=2103, batch=8) == 300 * 263 == FitConfig().steps
