"""Which files are restored, where their results go, and what is refused before anything is done."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.infer.done_log import DONE_LOG
from deblur_deploy.infer.jobs import BROKEN_LINKS, EARLIER_RESULTS, NO_FILES, find_jobs, parse_format


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
    [
        ("*.png", ["b.png"]),
        ("sub/*", ["sub/c.TIF", "sub/deep/d.webp"]),
        ("[ab].*", ["a.jpg", "b.png"]),
        ("*.tif", ["sub/c.TIF"]),
        ("*.PNG", ["b.png"]),
    ],
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
    (job,) = find_jobs([folder / "a.jpg"], folder)
    assert "would be written over the input" in job.conflict.message
    first, second = find_jobs([folder / "sub" / "c.TIF", folder / "a.jpg"], folder / "sub", suffix=".TIF")
    assert "would be written over the input" in first.conflict.message
    assert second.conflict is None


def test_two_results_of_one_name_are_refused_and_the_others_go_on(folder, tmp_path, out):
    (tmp_path / "a.jpg").touch()
    jobs = find_jobs([folder, tmp_path / "a.jpg"], out)
    refused = [job for job in jobs if job.conflict is not None]
    assert [job.source for job in refused] == [folder / "a.jpg", tmp_path / "a.jpg"]
    assert all("would both be written to" in job.conflict.message for job in refused)
    assert len(jobs) == 7


def test_results_of_an_earlier_run_below_the_folder_are_no_inputs(folder, out):
    (folder / "restored" / "sub").mkdir(parents=True)
    (folder / "restored" / DONE_LOG).touch()
    (folder / "restored" / "sub" / "a.jpg").touch()
    passed = Counter()
    jobs = find_jobs([folder], out, passed=passed)
    assert not [job.name for job in jobs if "restored" in job.name]
    assert passed == {EARLIER_RESULTS: 1, ".txt": 1}
    assert [job.name for job in find_jobs([folder / "restored"], out)] == ["sub/a.jpg"]  # named on purpose


def test_what_is_passed_over_is_counted_and_named(folder, tmp_path, out):
    for name in ("x.NEF", "y.nef", "z.gif"):
        (folder / name).touch()
    passed = Counter()
    find_jobs([folder], out, passed=passed)
    assert passed == {".txt": 1, ".nef": 2, ".gif": 1}
    (tmp_path / "raw").mkdir()
    for name in ("x.NEF", "y.nef", "z.gif"):
        (tmp_path / "raw" / name).touch()
    with pytest.raises(
        ArtifactError, match=r"holds no pictures or videos, only 2 \.nef \(camera RAW\), 1 \.gif \(GIF\)"
    ):
        find_jobs([tmp_path / "raw"], out)


def test_links_to_nothing_and_pipes_are_counted(folder, out):
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    passed = Counter()
    assert not {"gone.png", "pipe.png"} & {job.name for job in find_jobs([folder], out, passed=passed)}
    assert passed == {".txt": 1, BROKEN_LINKS: 1, NO_FILES: 1}


def test_a_missing_input_and_an_empty_folder(tmp_path, out):
    with pytest.raises(ArtifactError, match=r"there is no .*missing"):
        find_jobs([tmp_path / "missing"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="holds no pictures or videos"):
        find_jobs([tmp_path / "empty"], out)
    with pytest.raises(ArtifactError, match="holds no files that match"):
        find_jobs([tmp_path / "empty"], out, "*.png")
