"""Photographs are decoded once, in memory or on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data import cache as cache_module
from deblur_deploy.data.cache import open_pairs, open_photos
from deblur_deploy.data.layouts import PairFiles


@pytest.fixture
def file(tmp_path: Path, photo: NDArray[np.uint8]) -> Path:
    save_rgb(tmp_path / "a.png", photo)
    return tmp_path / "a.png"


def test_the_cache_holds_the_pixels_and_is_read_instead_of_the_file(
    file: Path, photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = open_photos([file], tmp_path / "cache")
    assert isinstance(first, np.memmap)
    assert np.array_equal(first, photo)
    monkeypatch.setattr(cache_module, "load_rgb", lambda path: pytest.fail("decoded twice"))
    (second,) = open_photos([file], tmp_path / "cache")
    assert np.array_equal(second, photo)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_changed_file_is_decoded_again(file: Path, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    open_photos([file], tmp_path / "cache")
    save_rgb(file, photo[::-1])
    os.utime(file, ns=(1, 1))
    (again,) = open_photos([file], tmp_path / "cache")
    assert np.array_equal(again, photo[::-1])


def test_a_full_disk_leaves_nothing_half_written(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(target: object, array: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.np, "save", full)
    with pytest.raises(ArtifactError, match=r"the cache of .*a\.png.*No space left"):
        open_photos([file], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_photograph_that_the_system_does_not_write_is_named(
    file: Path, tmp_path: Path, small_files_only: Callable[[], AbstractContextManager[None]]
) -> None:
    with pytest.raises(ArtifactError, match=r"the cache of .*a\.png in .*cannot be used"), small_files_only():
        open_photos([file], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupt_leaves_nothing_half_written(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(target: object, array: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module.np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_photos([file], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no file .*none\.png"):
        open_photos([tmp_path / "none.png"], tmp_path / "cache")


@pytest.mark.parametrize("cached", [True, False])
def test_pairs_of_two_sizes_are_named(file: Path, photo: NDArray[np.uint8], tmp_path: Path, cached: bool) -> None:
    save_rgb(tmp_path / "small.png", photo[:50])
    files = [PairFiles("a.png", file, file), PairFiles("b.png", file, tmp_path / "small.png")]
    folder = tmp_path / "cache" if cached else None
    assert len(open_pairs(files[:1], folder)) == 1
    with pytest.raises(ArtifactError, match=r"a\.png and its sharp partner differ in size: 208x160 and 208x50"):
        open_pairs(files, folder)


def test_cached_photographs_hold_no_descriptors(file: Path, tmp_path: Path) -> None:
    photos = open_photos([file] * 300, tmp_path / "cache")
    pairs = open_pairs([PairFiles("a.png", file, file)] * 300, tmp_path / "cache")
    before = len(list(Path("/proc/self/fd").iterdir()))
    sizes = {photo.shape for photo in photos} | {picture.shape for pair in pairs for picture in pair}
    assert sizes == {(160, 208, 3)}
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert len(photos[1:4]) == 3


def test_a_cache_that_is_removed_meanwhile_is_named(file: Path, tmp_path: Path) -> None:
    photos = open_photos([file], tmp_path / "cache")
    for decoded in (tmp_path / "cache").iterdir():
        decoded.unlink()
    with pytest.raises(ArtifactError, match=r"the cache of .*a\.png in .* cannot be used"):
        photos[0]
