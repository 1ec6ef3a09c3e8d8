"""Every published layout, in miniature; and folders that are almost one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data.layouts import films_of, find_pairs
from deblur_deploy.data.pairs import load_pairs, load_photos


def tree(root: Path, *files: str) -> Path:
    """Small pictures at these paths, each with a colour of its own, and odd sizes nowhere."""
    for index, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_rgb(root / name, np.full((16, 24, 3), 10 * index, np.uint8))
    return root


def found(root: Path, split: str) -> list[tuple[str, str, str]]:
    return [
        (pair.name, pair.blurred.relative_to(root).as_posix(), pair.sharp.relative_to(root).as_posix())
        for pair in find_pairs(root, split)
    ]


def test_gopro_by_sequences_leaves_out_the_gamma_copies(tmp_path: Path) -> None:
    names = [
        f"{split}/{sequence}/{kind}/000001.png"
        for split, sequence in (("train", "GOPR0372"), ("train", "GOPR0374"), ("test", "GOPR0384"))
        for kind in ("blur", "blur_gamma", "sharp")
    ]
    root = tree(tmp_path, *names)
    assert found(root, "calibration") == [
        (f"{name}/000001.png", f"train/{name}/blur/000001.png", f"train/{name}/sharp/000001.png")
        for name in ("GOPR0372", "GOPR0374")
    ]
    assert found(root, "evaluation") == [
        ("GOPR0384/000001.png", "test/GOPR0384/blur/000001.png", "test/GOPR0384/sharp/000001.png")
    ]


def test_gopro_as_input_and_target(tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"{split}/{kind}/a.png" for split in ("train", "test") for kind in ("input", "target")))
    assert found(root, "calibration") == [("a.png", "train/input/a.png", "train/target/a.png")]
    assert found(root, "evaluation") == [("a.png", "test/input/a.png", "test/target/a.png")]


@pytest.mark.parametrize(("blurred", "sharp"), [("blur", "sharp"), ("input", "target"), ("blur", "gt")])
def test_flat_pairs_of_folders(tmp_path: Path, blurred: str, sharp: str) -> None:
    root = tree(tmp_path, *(f"{kind}/{name}.png" for kind in (blurred, sharp) for name in "ba"))
    assert [name for name, *_ in found(root, "evaluation")] == ["a.png", "b.png"]
    assert found(root, "calibration") == found(root, "evaluation")


def test_realblur_without_lists_is_taken_whole(tmp_path: Path) -> None:
    folders = ("scene001/blur/blur", "scene001/gt/gt", "scene002/blur/blur", "scene002/gt/gt")
    root = tree(tmp_path, *(f"{start}_{number}.png" for start in folders for number in (1, 2)))
    assert len(found(root, "evaluation")) == 4
    assert found(root, "evaluation")[0] == ("scene001/blur_1.png", "scene001/blur/blur_1.png", "scene001/gt/gt_1.png")


@pytest.mark.parametrize("beside", [True, False])
def test_realblur_is_split_by_its_lists(tmp_path: Path, beside: bool) -> None:
    root = tree(
        tmp_path / "RealBlur-J",
        *(f"scene00{n}/{kind}/{kind}_1.png" for n in (1, 2) for kind in ("blur", "gt")),
    )
    for split, scene in (("train", "scene001"), ("test", "scene002")):
        prefix = "RealBlur-J/" if beside else ""
        line = f"{prefix}{scene}/gt/gt_1.png {prefix}{scene}/blur/blur_1.png\n"
        (tmp_path if beside else root).joinpath(f"RealBlur_J_{split}_list.txt").write_text(line)
    other = "RealBlur-R/scene009/gt/gt_1.png RealBlur-R/scene009/blur/blur_1.png"
    (tmp_path / "RealBlur_R_test_list.txt").write_text(other)
    assert found(root, "calibration") == [("scene001/blur_1.png", "scene001/blur/blur_1.png", "scene001/gt/gt_1.png")]
    assert [name for name, *_ in found(root, "evaluation")] == ["scene002/blur_1.png"]
    (root / "scene002" / "gt" / "gt_1.png").unlink()
    with pytest.raises(ArtifactError, match=r"scene002/gt/gt_1\.png is missing"):
        find_pairs(root, "evaluation")


@pytest.mark.parametrize("beside", [True, False])
def test_realblur_is_split_in_the_folder_where_one_stands(
    tmp_path: Path, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "set", *(f"scene00{n}/{kind}/{kind}_1.png" for n in (1, 2) for kind in ("blur", "gt")))
    prefix = "set/" if beside else ""
    line = f"{prefix}scene002/gt/gt_1.png {prefix}scene002/blur/blur_1.png\n"
    (tmp_path if beside else root).joinpath("RealBlur_J_test_list.txt").write_text(f"\n{line}\n")
    monkeypatch.chdir(root)
    assert [pair.name for pair in find_pairs(Path(), "evaluation")] == ["scene002/blur_1.png"]


def test_realblur_with_the_list_of_one_split_gives_no_other(tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"scene00{n}/{kind}/{kind}_1.png" for n in (1, 2) for kind in ("blur", "gt")))
    (root / "RealBlur_J_test_list.txt").write_text("scene002/gt/gt_1.png scene002/blur/blur_1.png\n")
    assert len(find_pairs(root, "evaluation")) == 1
    with pytest.raises(ArtifactError, match="has a RealBlur list of its test pairs and none of its train pairs"):
        find_pairs(root, "calibration")


def test_a_list_with_half_a_line_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, "scene001/blur/blur_1.png", "scene001/gt/gt_1.png")
    (root / "RealBlur_J_test_list.txt").write_text("scene001/gt/gt_1.png\n")
    with pytest.raises(ArtifactError, match=r"line 1 of .*RealBlur_J_test_list\.txt is 'scene001/gt/gt_1\.png'"):
        find_pairs(root, "evaluation")


def test_what_macos_leaves_beside_files_is_passed_over(tmp_path: Path) -> None:
    root = tree(tmp_path, "test/1.png", "GT/1.png")
    for name in ("test/._1.png", "._cover.png"):
        (root / name).write_bytes(b"\x00\x05\x16\x07")
    assert found(root, "evaluation") == [("1.png", "test/1.png", "GT/1.png")]


def test_hide_keeps_sharp_pictures_of_both_splits_together(tmp_path: Path) -> None:
    blurred = ("train/1.png", "test/test-close-ups/2.png", "test/test-long-shot/3.png")
    root = tree(tmp_path, *blurred, "GT/1.png", "GT/2.png", "GT/3.png")
    assert found(root, "calibration") == [("1.png", "train/1.png", "GT/1.png")]
    assert found(root, "evaluation") == [
        ("test-close-ups/2.png", "test/test-close-ups/2.png", "GT/2.png"),
        ("test-long-shot/3.png", "test/test-long-shot/3.png", "GT/3.png"),
    ]
    (root / "GT" / "3.png").unlink()
    with pytest.raises(ArtifactError, match=r"test-long-shot/3\.png has no partner in .*GT"):
        find_pairs(root, "evaluation")


def test_pairs_are_loaded_and_their_sharp_ones_are_the_photographs(tmp_path: Path) -> None:
    root = tree(tmp_path, "test/seq/blur/1.png", "test/seq/sharp/1.png")
    (pair,) = load_pairs(root)
    assert pair.name == "seq/1.png"
    assert (pair.blurred[0, 0, 0], pair.sharp[0, 0, 0]) == (0, 10)
    (photo,) = load_photos(root, "evaluation")
    assert photo[0, 0, 0] == 10


def test_sharp_photographs_are_no_pairs(tmp_path: Path) -> None:
    assert find_pairs(tree(tmp_path, "a.png", "b.png"), "evaluation") == []
    assert find_pairs(tmp_path / "nowhere", "evaluation") == []


@pytest.mark.parametrize("loose", ["stray.png", "blur/stray.png", "target/stray.png", "scene/gt/1.png"])
def test_a_folder_that_mixes_splits_is_refused(tmp_path: Path, loose: str) -> None:
    root = tree(tmp_path, "train/blur/1.png", "train/sharp/1.png", "test/blur/2.png", "test/sharp/2.png", loose)
    (root / "scene" / "blur").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=rf"mixes splits: .*{loose.split('/')[0]} lies beside test/ and train/"):
        find_pairs(root, "calibration")


def test_a_folder_without_the_split_says_which_it_has(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/blur/1.png", "train/sharp/1.png")
    with pytest.raises(ArtifactError, match="has no test/, only train/"):
        load_pairs(root, "evaluation")


def test_a_sequence_without_sharp_pictures_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/A/blur/1.png", "train/A/sharp/1.png", "train/B/blur/1.png")
    with pytest.raises(ArtifactError, match=r"train/B/blur has no sharp/ or gt/"):
        find_pairs(root, "calibration")


def test_an_unpaired_file_of_a_sequence_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, "scene001/blur/blur_1.png", "scene001/blur/blur_2.png", "scene001/gt/gt_1.png")
    with pytest.raises(ArtifactError, match=r"scene001/blur/blur_2\.png has no partner in .*scene001/gt"):
        find_pairs(root, "evaluation")


def test_partners_of_two_sizes_are_named(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    root = tree(tmp_path, "test/seq/blur/1.png", "test/seq/sharp/1.png")
    save_rgb(root / "test/seq/sharp/1.png", photo)
    with pytest.raises(ArtifactError, match=r"seq/blur/1\.png.*24x16 and 208x160"):
        load_pairs(root)


@pytest.mark.parametrize("nested", [True, False])
def test_reds_is_films_of_its_two_splits(tmp_path, photo, nested):
    for part, sequences in (("train", ("000", "001")), ("val", ("007",))):
        for kind in ("blur", "sharp"):
            for sequence in sequences:
                place = (tmp_path / part if nested else tmp_path) / f"{part}_{kind}" / sequence
                place.mkdir(parents=True)
                for name in ("00000000.png", "00000001.png"):
                    save_rgb(place / name, photo[:8, :8])

    train, val = (find_pairs(tmp_path, split) for split in ("calibration", "evaluation"))

    assert [pair.name for pair in train] == [f"{s}/0000000{i}.png" for s in ("000", "001") for i in (0, 1)]
    assert [pair.name for pair in val] == ["007/00000000.png", "007/00000001.png"]
    assert all("_blur" in str(pair.blurred) and "_sharp" in str(pair.sharp) for pair in (*train, *val))
    assert list(films_of(train)) == ["000", "001"]


def test_reds_without_a_split_or_a_sequence_is_named(tmp_path, photo):
    for kind in ("blur", "sharp"):
        (tmp_path / "train" / f"train_{kind}" / "000").mkdir(parents=True)
        save_rgb(tmp_path / "train" / f"train_{kind}" / "000" / "0.png", photo[:8, :8])

    with pytest.raises(ArtifactError, match="has no val_blur/ and val_sharp/, only train_blur/"):
        find_pairs(tmp_path, "evaluation")
    (tmp_path / "train" / "train_blur" / "001").mkdir()
    with pytest.raises(ArtifactError, match="001 has no partner"):
        find_pairs(tmp_path, "calibration")
