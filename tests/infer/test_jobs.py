"""Which files are restored, where their results go, and what is refused before anything is done."""

from __future__ import annotations

import pytest

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.infer.jobs import find_jobs, parse_format


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg", "sub/c.TIF", "sub/deep/d.webp", "clip.mp4", "scan.dcm", "notes.txt", ".hidden.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "in" / ".git").mkdir()
    (tmp_path / "in" / ".git" / "e.png").touch()
    return tmp_path / "in"


def test_a_folder_is_listed_with_what_is_below_it(folder, out):
    jobs = find_jobs([folder], out)
    assert [job.name for job in jobs] == ["a.jpg", "b.png", "clip.mp4", "scan.dcm", "sub/c.TIF", "sub/deep/d.webp"]
    assert [job.kind for job in jobs] == ["picture", "picture", "video", "dicom", "picture", "picture"]
    assert [job.target for job in jobs] == [out / job.name for job in jobs]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*.png", ["b.png"]), ("sub/*", ["sub/c.TIF", "sub/deep/d.webp"]), ("[ab].*", ["a.jpg", "b.png"])],
)
def test_a_pattern_chooses(folder, out, pattern, names):
    assert [job.name for job in find_jobs([folder], out, pattern)] == names


def test_a_format_gives_pictures_its_suffix_and_leaves_videos_alone(folder, out):
    targets = {job.name: job.target.name for job in find_jobs([folder], out, suffix=".avif")}
    assert targets["sub/c.TIF"] == "c.avif"
    assert (targets["clip.mp4"], targets["scan.dcm"]) == ("clip.mp4", "scan.dcm")


def test_formats_have_the_names_that_people_use():
    assert parse_format("jpg") == parse_format(".JPEG") == ("JPEG", ".jpg")
    assert parse_format("tif") == ("TIFF", ".tif")
    with pytest.raises(ConfigError, match="there is no format 'gif'"):
        parse_format("gif")


def test_a_single_file_is_taken_whatever_its_suffix(folder, out):
    assert [job.target for job in find_jobs([folder / "notes.txt"], out)] == [out / "notes.txt"]


def test_results_inside_the_input_folder_are_no_inputs(folder):
    (folder / "results").mkdir()
    (folder / "results" / "a.jpg").touch()
    assert "results/a.jpg" not in [job.name for job in find_jobs([folder], folder / "results")]


def test_inputs_are_never_replaced(folder):
    with pytest.raises(ConfigError, match="--out is the input folder"):
        find_jobs([folder], folder / "sub" / "..")
    with pytest.raises(ConfigError, match="would be written over the input"):
        find_jobs([folder / "a.jpg"], folder)
    with pytest.raises(ConfigError, match="would be written over the input"):
        find_jobs([folder / "sub" / "c.TIF", folder / "a.jpg"], folder / "sub", suffix=".TIF")


def test_two_results_of_one_name_are_refused(folder, tmp_path, out):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ConfigError, match="would both be written to"):
        find_jobs([folder, tmp_path / "a.jpg"], out)


def test_a_missing_input_and_an_empty_folder(tmp_path, out):
    with pytest.raises(ArtifactError, match=r"there is no .*missing"):
        find_jobs([tmp_path / "missing"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="holds no pictures or videos"):
        find_jobs([tmp_path / "empty"], out)
    with pytest.raises(ArtifactError, match="holds no files that match"):
        find_jobs([tmp_path / "empty"], out, "*.png")
