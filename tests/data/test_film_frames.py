"""Frames of films to train on: evenly spread, in the right colours, and refused where they cannot be taken as sRGB."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.data.film_frames import film_frames


def numbered(count: int) -> list[np.ndarray]:
    """Flat pictures whose level is their number, ten codes apart."""
    return [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(count)]


@pytest.mark.parametrize(
    ("frames", "most", "kept"),
    [
        (5, 9, [0, 1, 2, 3, 4]),
        (5, 5, [0, 1, 2, 3, 4]),
        (6, 5, [0, 2, 4]),
        (11, 5, [0, 4, 8]),
        (20, 6, [0, 4, 8, 12, 16]),
        (4, 1, [0]),
    ],
)
def test_frames_are_evenly_spread(write_film, tmp_path: Path, frames: int, most: int, kept: list[int]) -> None:
    film = write_film(tmp_path / "film.mkv", numbered(frames))
    found = film_frames(film, most)
    assert [int(frame[0, 0, 0]) // 10 for frame in found] == kept
    assert all(frame.shape == (48, 64, 3) and frame.dtype == np.uint8 for frame in found)


def test_a_lossless_film_gives_the_pictures_that_went_in(write_film, photo, tmp_path: Path) -> None:
    (frame,) = film_frames(write_film(tmp_path / "film.mkv", [photo]), 3)
    np.testing.assert_array_equal(frame, photo)


def test_the_colours_of_a_film_are_those_of_its_matrix(write_film, tmp_path: Path) -> None:
    """A saturated colour differs by tens of codes between the two matrices."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[...] = (200, 40, 90)
    found = {}
    for matrix in (1, 5):
        film = write_film(tmp_path / f"{matrix}.mkv", [picture], "libx264", colorspace=matrix, color_range=1)
        found[matrix] = film_frames(film, 1)[0][32, 48].astype(int)
    # The encoder's conversion is that of BT.601 in both: read by it, the colour is back.
    np.testing.assert_allclose(found[5], (200, 40, 90), atol=3)
    assert np.abs(found[1] - found[5]).max() > 10


def test_a_film_in_pq_is_refused_by_name(write_film, photo, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mkv", [photo], "libx264", color_trc=16)
    with pytest.raises(ArtifactError, match=r"has PQ .* values") as error:
        film_frames(film, 3)
    assert "BT.709" in error.value.hint


def test_what_is_not_a_film_is_named(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install 'deblur-deploy[video]'")
    path = tmp_path / "film.mp4"
    path.write_bytes(b"not a film at all" * 100)
    with pytest.raises(ArtifactError, match=r"film\.mp4 cannot be read") as error:
        film_frames(path, 3)
    assert "plays" in error.value.hint


def test_without_pyav_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match="films need PyAV") as error:
        film_frames(tmp_path / "film.mp4", 3)
    assert "deblur-deploy[video]" in error.value.hint
