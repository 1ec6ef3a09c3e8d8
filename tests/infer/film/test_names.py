"""What is a film: by its name in folders, by its contents when named; and films on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import av
import pytest
from film_maker import Recipe, film_frames, make_film, pictures, restored

from deblur_deploy.cli.infer_preview import write_previews
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.film_suffixes import FILM_SUFFIXES
from deblur_deploy.infer.jobs import find_jobs
from deblur_deploy.infer.settings import InferConfig

CODECS = {
    ".mts": "libx264", ".ts": "mpeg2video", ".wmv": "wmv2", ".mpg": "mpeg2video", ".flv": "flv", ".3gp": "libx264",
    ".m4v": "libx264", ".vob": "mpeg2video", ".mxf": "mpeg2video", ".m2ts": "libx264", ".asf": "wmv2",
    ".mpeg": "mpeg1video",
}  # fmt: skip


@pytest.mark.parametrize("suffix", CODECS)
def test_films_of_every_container_are_found_in_folders_and_come_back_in_theirs(tmp_path, photo, suffix):
    source = make_film(tmp_path / "in" / f"a{suffix}", pictures(photo, 8, (176, 144)), Recipe(CODECS[suffix]))
    (job,) = find_jobs([tmp_path / "in"], tmp_path / "out")
    assert job.kind == "video"
    path, film = restored(source)
    assert film.frames == len(film_frames(path)) == 8
    assert film.notes == ()


def test_other_files_of_a_folder_are_counted_and_typescript_is_not_a_film(tmp_path, photo):
    folder = tmp_path / "in"
    make_film(folder / "film.ts", pictures(photo), Recipe("mpeg2video"))
    (folder / "index.ts").write_text("export const answer = 42;\n")
    (folder / "notes.docx").write_bytes(b"PK")
    passed: Counter[str] = Counter()
    assert [job.name for job in find_jobs([folder], tmp_path / "out", passed=passed)] == ["film.ts"]
    assert passed == {".ts": 1, ".docx": 1}


@pytest.mark.parametrize("name", ["clip", "clip.bin", "clip.moov2"])
def test_a_named_file_is_a_film_where_ffmpeg_finds_one(tmp_path, photo, name):
    made = make_film(tmp_path / "a.mp4", pictures(photo), Recipe())
    made.rename(tmp_path / name)
    (job,) = find_jobs([tmp_path / name], tmp_path / "out", suffix=".png")
    assert (job.kind, job.target.name) == ("video", name)
    path, film = restored(tmp_path / name)
    assert film.frames == len(film_frames(path)) == 8


@pytest.mark.parametrize("content", [b"plain text\n" * 40, b"", b"\x89PNG\r\n\x1a\n"])
def test_a_named_file_of_another_kind_is_not_a_film(tmp_path, content):
    (tmp_path / "notes.txt").write_bytes(content)
    (job,) = find_jobs([tmp_path / "notes.txt"], tmp_path / "out")
    assert job.kind == "picture"


def test_a_film_with_the_suffix_of_another_container_stays_what_it_is(tmp_path, photo):
    make_film(tmp_path / "a.mp4", pictures(photo), Recipe()).rename(tmp_path / "a.avi")
    path, _ = restored(tmp_path / "a.avi")
    with av.open(str(path)) as reader:
        assert "mp4" in reader.format.name


def test_a_preview_of_a_film_is_its_first_seconds(artifact, runner, tmp_path, photo):
    source = make_film(tmp_path / "in" / "a.mkv", pictures(photo, 75, (32, 32)), Recipe(ticks=tuple(range(75))))
    (preview,) = write_previews(runner, find_jobs([source], tmp_path / "out"), tmp_path / "out", InferConfig())
    assert preview == tmp_path / "out" / "preview" / "a.mkv"
    assert len(film_frames(preview)) == 60


def test_suffixes_without_a_muxer_are_those_of_bare_streams():
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in FILM_SUFFIXES)
    assert {".mts", ".ts", ".wmv", ".mpg", ".flv", ".3gp"} <= set(FILM_SUFFIXES)


def test_the_command_line_says_what_is_lost_and_goes_on_after_bad_films(artifact, tmp_path, photo):
    """With a title that is not UTF-8, a cut film, an interlaced one, and one whose codec cannot be written."""
    folder = tmp_path / "in"
    title = b"Urlaub am M\xe4rz".decode("utf-8", "surrogateescape")
    small = pictures(photo, 4, (32, 32))
    whole = make_film(folder / "latin1.mkv", small, Recipe(metadata={"title": title}, ticks=tuple(range(4))))
    make_film(folder / "cine.avi", small, Recipe("cinepak", "rgb24"))
    (folder / "cut.mkv").write_bytes(whole.read_bytes()[:-100])
    (folder / "broken.mp4").write_bytes(b"nothing")
    command = [sys.executable, "-m", "deblur_deploy.cli", "infer", artifact.directory, folder]
    outcome = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "out"), "--json"], capture_output=True, text=True, timeout=280
    )

    assert outcome.returncode == 1
    files = {entry["input"].rpartition("/")[2]: entry for entry in json.loads(outcome.stdout)["files"]}
    assert {name: entry["status"] for name, entry in files.items()} == {
        "latin1.mkv": "done",
        "cine.avi": "done",
        "cut.mkv": "failed",
        "broken.mp4": "failed",
    }
    assert any("cinepak" in note for note in files["cine.avi"]["notes"])
    assert "cinepak" in outcome.stderr
    assert "ends early" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    with pytest.raises(ArtifactError, match="broken"):
        restored(folder / "broken.mp4")
