"""Pairs and photographs: which kind of folder it is, the same bytes every time, and errors that name the file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import Resolution, save_rgb
from deblur_deploy.data import pairs as pairs_module
from deblur_deploy.data.pairs import Pair, crop_pair, load_pairs, load_photos
from deblur_deploy.data.shake import shake
from deblur_deploy.quality.metrics import psnr_db

Image8 = NDArray[np.uint8]

EVALUATION_BLUR = "cdcda33d680736154c945d584cb37425c9c6786dabcc884968ec2e6baf6a3038"
"""sha256 of the blurred photographs that every published figure was measured on."""


def write_images(folder: Path, **images: Image8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        save_rgb(folder / f"{name}.png", image)
    return folder


def write_set(folder: Path, splits: dict[str, str]) -> Path:
    """A set.toml for images that are already there, named without suffix."""
    tables = []
    for name, split in splits.items():
        sha256 = hashlib.sha256((folder / f"{name}.png").read_bytes()).hexdigest()
        tables.append(f'[[image]]\nfile = "{name}.png"\nsha256 = "{sha256}"\nsplit = "{split}"\ntitle = "a picture"\n')
    (folder / "set.toml").write_text('name = "mine"\n' + "\n".join(tables))
    return folder


def test_shipped_photographs_are_pairs_the_same_bytes_every_time() -> None:
    photos, pairs = load_photos(None, "evaluation"), load_pairs(None, "evaluation")
    assert len(pairs) == len(photos) >= 8
    for photo, pair in zip(photos, pairs, strict=True):
        assert np.array_equal(pair.sharp, photo)
        assert pair.blurred.shape == pair.sharp.shape
        assert 15 < psnr_db(pair.blurred, pair.sharp) < 40
    assert [pair.name for pair in pairs] == sorted({pair.name for pair in pairs})
    digest = hashlib.sha256(b"".join(pair.blurred.tobytes() for pair in pairs)).hexdigest()
    assert digest == EVALUATION_BLUR, "published figures are of other pairs: measure and publish them again"


def test_the_wide_set_has_the_same_sharp_photographs_and_more_blur() -> None:
    plain, wide = load_pairs(None, "evaluation"), load_pairs(Path("wide"), "evaluation")
    assert [pair.name for pair in wide] == [pair.name for pair in plain]
    for ours, theirs in zip(wide, plain, strict=True):
        assert np.array_equal(ours.sharp, theirs.sharp)
    means = [np.mean([psnr_db(pair.blurred, pair.sharp) for pair in pairs]) for pairs in (wide, plain)]
    assert 18 < means[0] < means[1]


def test_a_folder_is_never_taken_for_a_shipped_set(
    tmp_path: Path, photo: Image8, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "wide", mine=photo)
    assert [pair.name for pair in load_pairs(Path("wide"))] == ["mine.png"]


def test_a_set_of_blurred_photographs_names_the_sharp_ones(tmp_path: Path, photo: Image8) -> None:
    write_set(write_images(tmp_path / "clear", a=photo, b=photo), {"a": "evaluation", "b": "evaluation"})
    blurred = write_set(write_images(tmp_path / "moved", a=photo // 2), {"a": "evaluation"})
    described = (blurred / "set.toml").read_text()
    (blurred / "set.toml").write_text('sharp_set = "clear"\n' + described)
    (pair,) = load_pairs(blurred)
    assert np.array_equal(pair.blurred, photo // 2)
    assert np.array_equal(pair.sharp, photo)

    (blurred / "set.toml").write_text('sharp_set = "clear"\n' + described.replace("a.png", "c.png"))
    (blurred / "a.png").rename(blurred / "c.png")
    with pytest.raises(ArtifactError, match=r"has no c\.png"):
        load_pairs(blurred)


def test_splits_of_a_set_are_kept_apart(tmp_path: Path, photo: Image8) -> None:
    write_images(tmp_path, one=photo, two=photo[::-1], three=photo[:, ::-1])
    write_set(tmp_path, {"two": "evaluation", "three": "calibration", "one": "evaluation"})
    assert [pair.name for pair in load_pairs(tmp_path, "evaluation")] == ["one.png", "two.png"]
    assert [pair.name for pair in load_pairs(tmp_path, "calibration")] == ["three.png"]
    (only,) = load_photos(tmp_path, "calibration")
    assert np.array_equal(only, photo[:, ::-1])


def test_a_pair_depends_on_its_own_file_only(tmp_path: Path, photo: Image8) -> None:
    alone = load_pairs(write_images(tmp_path / "alone", b=photo))
    among = load_pairs(write_images(tmp_path / "among", a=photo, b=photo, c=photo))
    assert np.array_equal(alone[0].blurred, among[1].blurred)
    assert not np.array_equal(among[0].blurred, among[1].blurred)


def test_a_small_photograph_is_shaken_once(tmp_path: Path, photo: Image8, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(sharp: Image8, *rest: Any) -> Any:
        made.append(sharp.size)
        return shake(sharp, *rest)

    monkeypatch.setattr(pairs_module, "shake", counted)
    monkeypatch.setattr(pairs_module, "_kept_pairs", {})
    save_rgb(tmp_path / "once.png", photo)
    (first,) = load_pairs(tmp_path)
    expected = first.blurred.copy()
    first.blurred[:] = 0  # whoever got it may do with it what they like
    (second,) = load_pairs(tmp_path)
    assert np.array_equal(second.blurred, expected)
    assert len(made) == 1
    save_rgb(tmp_path / "once.png", 255 - photo)
    (third,) = load_pairs(tmp_path)
    assert len(made) == 2
    assert not np.array_equal(third.blurred, expected)
    monkeypatch.setattr(pairs_module, "_KEPT_VALUES", photo.size - 1)
    load_pairs(tmp_path)
    assert len(made) == 3


def test_no_more_pairs_are_kept_than_is_said(tmp_path: Path, photo: Image8, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "_KEPT_PAIRS", 2)
    monkeypatch.setattr(pairs_module, "_kept_pairs", {})
    for number in range(4):
        save_rgb(tmp_path / f"{number}.png", np.roll(photo, number))
    load_pairs(tmp_path)
    assert [name for name, _ in pairs_module._kept_pairs] == ["2.png", "3.png"]


def test_a_plain_folder_has_no_splits(tmp_path: Path, photo: Image8) -> None:
    folder = write_images(tmp_path, a=photo, b=photo)
    assert len(load_pairs(folder, "evaluation")) == len(load_pairs(folder, "calibration")) == 2


def test_paired_folders_are_taken_as_they_are(tmp_path: Path, photo: Image8) -> None:
    write_images(tmp_path / "blur", a=photo[::-1], b=photo)
    write_images(tmp_path / "sharp", a=photo, b=photo)
    first, second = load_pairs(tmp_path)
    assert first.name == "a.png"
    assert np.array_equal(first.blurred, photo[::-1])
    assert np.array_equal(second.sharp, photo)
    assert len(load_photos(tmp_path)) == 2


def test_a_blurred_image_without_its_sharp_one_is_named(tmp_path: Path, photo: Image8) -> None:
    write_images(tmp_path / "blur", a=photo, lonely=photo)
    write_images(tmp_path / "sharp", a=photo)
    with pytest.raises(ArtifactError, match=r"blur/lonely\.png has no partner in .*sharp"):
        load_pairs(tmp_path)


def test_a_sharp_image_without_its_blurred_one_is_named(tmp_path: Path, photo: Image8) -> None:
    write_images(tmp_path / "blur", a=photo)
    write_images(tmp_path / "sharp", a=photo, lonely=photo)
    with pytest.raises(ArtifactError, match=r"sharp/lonely\.png has no partner in .*blur"):
        load_pairs(tmp_path)


def test_partners_of_two_sizes_are_named(tmp_path: Path, photo: Image8) -> None:
    write_images(tmp_path / "blur", a=photo[:100])
    write_images(tmp_path / "sharp", a=photo)
    with pytest.raises(ArtifactError, match=r"a\.png.*208x100 and 208x160"):
        load_pairs(tmp_path)


def test_crops_come_from_the_centre_of_both(photo: Image8) -> None:
    cropped = crop_pair(Pair("a.png", photo[::-1], photo), Resolution(100, 60))
    assert np.array_equal(cropped.sharp, photo[50:110, 54:154])
    assert np.array_equal(cropped.blurred, photo[::-1][50:110, 54:154])


def test_a_photograph_too_small_for_a_crop_is_named(photo: Image8) -> None:
    with pytest.raises(ArtifactError, match=r"small\.png has 208x160 pixels, too few for a crop of 209x160"):
        crop_pair(Pair("small.png", photo, photo), Resolution(209, 160))


def test_a_changed_file_of_a_set_is_named(tmp_path: Path, photo: Image8) -> None:
    write_set(write_images(tmp_path, a=photo), {"a": "evaluation"})
    save_rgb(tmp_path / "a.png", photo[::-1])
    with pytest.raises(ArtifactError, match=r"a\.png is not the photograph"):
        load_pairs(tmp_path)


def test_a_missing_file_of_a_set_is_named(tmp_path: Path, photo: Image8) -> None:
    write_set(write_images(tmp_path, a=photo), {"a": "evaluation"})
    (tmp_path / "a.png").unlink()
    with pytest.raises(ArtifactError, match=r"a\.png is missing"):
        load_pairs(tmp_path)


def test_a_set_without_the_split_says_so(tmp_path: Path, photo: Image8) -> None:
    write_set(write_images(tmp_path, a=photo), {"a": "evaluation"})
    with pytest.raises(ArtifactError, match="lists no calibration photographs"):
        load_photos(tmp_path, "calibration")


@pytest.mark.parametrize("text", ["[[image", "image = 3", '[[image]]\nfile = "a.png"', 'name = "empty"'])
def test_a_malformed_set_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "set.toml").write_text(text)
    with pytest.raises(ArtifactError, match=r"set\.toml"):
        load_pairs(tmp_path)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no images"):
        load_pairs(tmp_path)
    with pytest.raises(ArtifactError, match="is not a folder"):
        load_pairs(tmp_path / "nowhere")
