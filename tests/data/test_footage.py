"""Blurred footage: what is taken of a folder, what is refused, and crops that have nothing to do with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deblur_deploy.config import AugmentConfig, FitConfig
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data.footage import UnpairedCrops, check_apart, footage_files, open_footage


def test_a_folder_gives_pictures_and_films_below_it(write_film, photo, tmp_path: Path) -> None:
    (tmp_path / "day" / ".hidden").mkdir(parents=True)
    save_rgb(tmp_path / "one.png", photo)
    save_rgb(tmp_path / "day" / "two.jpg", photo)
    save_rgb(tmp_path / "day" / ".hidden" / "three.png", photo)
    film = write_film(tmp_path / "day" / "film.mkv", [photo, photo[::-1], photo])
    (tmp_path / "notes.txt").write_text("nothing")

    files = footage_files(tmp_path)
    images, names = open_footage(files, 2)

    assert [path.name for path in files] == ["film.mkv", "two.jpg", "one.png"]
    assert [Path(name).name for name in names] == ["film.mkv", "film.mkv", "two.jpg", "one.png"]
    np.testing.assert_array_equal(images[0], photo)
    np.testing.assert_array_equal(images[3], photo)
    assert footage_files(film) == [film]


def test_an_empty_folder_and_none_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ArtifactError, match="holds no pictures and no films"):
        footage_files(tmp_path)
    with pytest.raises(ArtifactError, match="neither a folder nor a film"):
        footage_files(tmp_path / "none")


def test_a_folder_of_pairs_is_not_footage(photo, tmp_path: Path) -> None:
    for kind in ("blur", "sharp"):
        (tmp_path / kind).mkdir()
        save_rgb(tmp_path / kind / "a.png", photo)
    with pytest.raises(ConfigError, match="holds blurred and sharp pairs") as error:
        footage_files(tmp_path)
    assert "--data" in error.value.hint
    assert len(footage_files(tmp_path / "blur")) == 1


def test_a_damaged_picture_is_named(photo, tmp_path: Path) -> None:
    save_rgb(tmp_path / "good.png", photo)
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    with pytest.raises(ArtifactError, match=r"bad\.png cannot be read"):
        open_footage(footage_files(tmp_path), 10)


def test_the_same_folder_for_both_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "photos" / "blurred"
    inner.mkdir(parents=True)
    beside = tmp_path / "photos-too"
    beside.mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    check_apart(beside, tmp_path / "photos")
    for other in (tmp_path / "photos", tmp_path / "link", inner / ".."):
        with pytest.raises(ConfigError, match="as the blurred and as the sharp pictures"):
            check_apart(tmp_path / "photos", other)
    for pair in ((inner, tmp_path / "photos"), (tmp_path / "photos", inner)):
        with pytest.raises(ConfigError, match="lie one inside the other"):
            check_apart(*pair)


def test_crops_come_from_the_footage_and_from_the_photographs(photo) -> None:
    """Dark footage and bright photographs, so that each crop says where it is from."""
    dark, bright = photo // 4, 192 + photo // 4
    fit = FitConfig(steps=10, batch=1, crop=48, seed=3)
    crops = UnpairedCrops([dark], [bright, bright[::-1]], fit)
    for index in range(10):
        blurred, sharp = crops[index]
        assert blurred.shape == sharp.shape == (3, 48, 48)
        assert blurred.max() <= 63 / 255 < 192 / 255 <= sharp.min()
    again = UnpairedCrops([dark], [bright, bright[::-1]], fit)
    assert all(torch.equal(a, b) for a, b in zip(crops[7], again[7], strict=True))


def test_each_of_the_two_is_varied_around_its_own_mean(photo) -> None:
    """A change of contrast leaves a flat picture flat at its level: around the other's mean it would move it."""
    flat = [np.full((64, 64, 3), level, np.uint8) for level in (51, 204)]
    fit = FitConfig(steps=4, batch=1, crop=48)
    crops = UnpairedCrops(flat[:1], flat[1:], fit, AugmentConfig(brightness=0.0, contrast=0.5))
    for index in range(4):
        blurred, sharp = crops[index]
        torch.testing.assert_close(blurred, torch.full_like(blurred, 0.2))
        torch.testing.assert_close(sharp, torch.full_like(sharp, 0.8))


@pytest.mark.parametrize(("place", "name"), [(0, "footage.png"), (1, "photo.png")])
def test_a_picture_smaller_than_a_crop_is_named(photo, place: int, name: str) -> None:
    images = [photo, photo]
    images[place] = photo[:40, :70]
    with pytest.raises(ConfigError, match=rf"{name} with a side of 40 px is too small for crops of 48 px"):
        UnpairedCrops(images[:1], images[1:], FitConfig(crop=48), names=["footage.png", "photo.png"])
