"""Folders of files: what fails is named and the others go on, and a second run goes on after the last."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from unittest import mock

import numpy as np
import pytest

from deblur_deploy.core import formats
from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.process_memory import resident_bytes
from deblur_deploy.infer import run
from deblur_deploy.infer.done_log import DONE_LOG
from deblur_deploy.infer.encode import EncodeConfig, write_picture
from deblur_deploy.infer.jobs import Job, find_jobs
from deblur_deploy.infer.picture import Metadata, Picture
from deblur_deploy.infer.read import read_picture
from deblur_deploy.infer.receptive_field import MEMORY_PROBE
from deblur_deploy.infer.restore import RestoreConfig, Restorer, deblur
from deblur_deploy.infer.run import FileRunner
from deblur_deploy.infer.settings import InferConfig
from tests.infer.stand_ins import Identity

ANEW, RESUME = InferConfig(), InferConfig(resume=True)


@pytest.fixture
def photos(tmp_path, photo):
    """Three good pictures and two bad ones."""
    folder = tmp_path / "photos"
    for index, (name, kind) in enumerate({"a.png": "PNG", "sub/b.tif": "TIFF", "z.webp": "WEBP"}.items()):
        write_picture(folder / name, Picture(np.roll(photo, index, 1)[:64, :80], kind))
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:900])
    (folder / "m.jpg").write_text("no picture")
    return folder


def restore(artifact, runner, photos, out, config=ANEW):
    """Run over a folder; returns status by name, and the report."""
    files = FileRunner(artifact, runner, out, config)
    told = []
    files.run(find_jobs([photos], out), lambda progress: told.append((progress.job.name, progress.result)))
    assert sorted(name for name, result in told if result) == sorted({name for name, _ in told})
    return {name: result.status for name, result in told if result}, files.report


def test_bad_files_are_named_and_the_others_go_on(artifact, runner, photos, out):
    status, report = restore(artifact, runner, photos, out)

    good = {"a.png", "sub/b.tif", "z.webp"}
    assert status == dict.fromkeys(good, "done") | {"broken.png": "failed", "m.jpg": "failed"}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == good | {DONE_LOG}
    original = read_picture(photos / "a.png").samples
    assert np.array_equal(read_picture(out / "a.png").samples, deblur(runner, original))
    assert [failure.error for failure in report.failures] == [
        f"{photos / 'broken.png'} cannot be read: {_reason(report, 0)}",
        f"{photos / 'm.jpg'} is not an image; give {formats.names()} files",
    ]
    assert report.as_json()["failed"] == 2
    assert report.frames == 3
    json.dumps(report.as_json())


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.avif", "a.dcm", "a.mp4", "a.mkv"])
def test_an_empty_file_is_named_as_that(artifact, runner, tmp_path, out, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).touch()
    _, report = restore(artifact, runner, tmp_path / "in", out)
    assert [failure.error for failure in report.failures] == [f"{tmp_path / 'in' / name} is empty; copy it again"]


def _reason(report, index):
    return report.failures[index].error.split("cannot be read: ")[1]


def test_resume_skips_what_was_done_in_the_same_way(artifact, runner, photos, out):
    restore(artifact, runner, photos, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != DONE_LOG}

    status, report = restore(artifact, runner, photos, out, RESUME)
    assert status == dict.fromkeys(("a.png", "sub/b.tif", "z.webp"), "skipped") | {
        "broken.png": "failed",
        "m.jpg": "failed",
    }
    assert report.frames == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("change", ["input", "output", "gone", "quality"])
def test_resume_does_again_what_has_changed(artifact, runner, photos, out, change):
    restore(artifact, runner, photos, out)
    config = RESUME
    if change == "input":
        write_picture(photos / "a.png", Picture(read_picture(photos / "a.png").samples[:50, :50], "PNG"))
    elif change == "output":
        (out / "a.png").write_bytes(b"something else")
    elif change == "gone":
        (out / "a.png").unlink()
    else:
        config = InferConfig(encode=EncodeConfig(quality=90), resume=True)

    status, _ = restore(artifact, runner, photos, out, config)
    assert status["a.png"] == "done"
    assert status["z.webp"] == ("done" if change == "quality" else "skipped")
    assert np.array_equal(read_picture(out / "a.png").samples, deblur(runner, read_picture(photos / "a.png").samples))


def test_without_resume_everything_is_done_again(artifact, runner, photos, out):
    restore(artifact, runner, photos, out)
    status, _ = restore(artifact, runner, photos, out)
    assert status["a.png"] == "done"


def test_a_done_log_that_was_cut_off_loses_one_file_only(artifact, runner, photos, out):
    restore(artifact, runner, photos, out)
    done_log = out / DONE_LOG
    lines = done_log.read_bytes().splitlines(keepends=True)
    done = [index for index, line in enumerate(lines) if b'"done"' in line]
    done_log.write_bytes(b"".join(lines[: done[-1]]) + lines[done[-1]][:40])

    status, _ = restore(artifact, runner, photos, out, RESUME)
    assert sorted(status.values()) == ["done", "failed", "failed", "skipped", "skipped"]
    status, _ = restore(artifact, runner, photos, out, RESUME)
    assert sorted(status.values()) == ["failed", "failed", "skipped", "skipped", "skipped"]


def test_what_was_measured_is_kept_for_the_next_run(artifact, runner, photos, out):
    restore(artifact, runner, photos, out)
    measured = [json.loads(line) for line in (out / DONE_LOG).read_text().splitlines() if "measured" in line]
    assert [line["measured"].keys() for line in measured] == [{"bytes_per_pixel"}]
    restore(artifact, runner, photos, out)
    assert sum("measured" in line for line in (out / DONE_LOG).read_text().splitlines()) == 1


@pytest.mark.parametrize(("name", "module"), [("a.mp4", "av"), ("a.dcm", "pydicom")])
def test_a_missing_extra_is_named_for_the_file_that_needs_it(artifact, runner, photos, name, module):
    (photos / name).write_bytes(b"anything")
    room, extra = {"av": ("video", "video"), "pydicom": ("dicom", "medical")}[module]
    with mock.patch.dict(sys.modules, {module: None}):
        sys.modules.pop(f"deblur_deploy.infer.{room}", None)
        status, report = restore(artifact, runner, photos, photos.parent / "out")
    assert (status[name], status["a.png"]) == ("failed", "done")
    (error,) = [failure.error for failure in report.failures if failure.input.endswith(name)]
    assert f"pip install 'deblur-deploy[{extra}]'" in error


def test_an_output_that_cannot_be_written_is_named(artifact, runner, photos, out):
    (out / "a.png").mkdir(parents=True)
    status, report = restore(artifact, runner, photos, out)
    assert status["a.png"] == "failed"
    assert status["z.webp"] == "done"
    assert any("a.png cannot be written" in failure.error for failure in report.failures)
    assert not [path for path in out.rglob(".*") if path.name != DONE_LOG]


class Watcher(Identity):
    """Takes its time over the picture that its memory is measured on, and notes how many files were read by then."""

    def __init__(self, read):
        self.read, self.read_before = read, None

    def infer(self, batch):
        if batch.shape[2:] == (MEMORY_PROBE, MEMORY_PROBE):
            time.sleep(0.5)
            self.read_before = self.read.call_count
        return batch.copy()


def budget(count):
    """So many bytes beside what the process takes."""
    return InferConfig(RestoreConfig(resident_bytes() // 128_000_000 * 128_000_000 + 128_000_000 + count))


def test_memory_is_measured_while_nothing_else_runs(artifact, photos, out, monkeypatch):
    """A large picture that is decoded meanwhile would count as the network's memory, which the done log keeps."""
    read = mock.Mock(wraps=read_picture)
    monkeypatch.setattr(run, "read_picture", read)
    network = Watcher(read)
    files = FileRunner(artifact, network, out, budget(1_200_000_000))
    files.run(find_jobs([photos], out), lambda progress: None)

    assert network.read_before == 0
    assert read.call_count >= 3  # the good ones
    (line,) = [line for line in (out / DONE_LOG).read_text().splitlines() if "bytes_per_pixel" in line]
    assert json.loads(line)["measured"]["bytes_per_pixel"] > 0


def test_a_picture_that_the_memory_cannot_hold_is_refused_before_it_is_decoded(artifact, tmp_path, out):
    write_picture(tmp_path / "in" / "large.bmp", Picture(np.zeros((4000, 5000, 3), np.uint8), "BMP"))
    write_picture(tmp_path / "in" / "small.png", Picture(np.zeros((40, 50, 3), np.uint8), "PNG"))
    write_picture(tmp_path / "in" / "rows.png", Picture(np.zeros((4000, 5000, 3), np.uint8), "PNG"))
    status, report = restore(artifact, Identity(), tmp_path / "in", out, budget(128_000_000))

    assert status == {"large.bmp": "failed", "small.png": "done", "rows.png": "done"}
    assert "large.bmp takes 340 MB to decode, and 128 MB are left" in report.failures[0].error
    assert re.search("give more than [0-9]+MB with --max-memory, or save it as PNG", report.failures[0].error)


def test_the_memory_that_the_hint_names_is_enough(artifact, tmp_path, out):
    write_picture(tmp_path / "in" / "large.bmp", Picture(np.zeros((4000, 5000, 3), np.uint8), "BMP"))
    _, report = restore(artifact, Identity(), tmp_path / "in", out, budget(128_000_000))
    megabytes = int(re.search("give more than ([0-9]+)MB", report.failures[0].error)[1])
    config = InferConfig(RestoreConfig(megabytes * 1_000_000))
    status, _ = restore(artifact, Identity(), tmp_path / "in", out, config)
    assert status == {"large.bmp": "done"}


def test_links_in_the_output_are_replaced_and_what_is_behind_them_stays(artifact, runner, photos, out, tmp_path):
    original = (photos / "a.png").read_bytes()
    (tmp_path / "kept.png").write_bytes(original)
    (out / "sub").mkdir(parents=True)
    (out / "a.png").symlink_to(tmp_path / "kept.png")
    (out / "sub" / "b.tif").symlink_to("b.tif")  # leads to itself
    status, _ = restore(artifact, runner, photos, out)
    assert status["a.png"] == status["sub/b.tif"] == "done"
    assert (tmp_path / "kept.png").read_bytes() == original
    assert not (out / "a.png").is_symlink()


def test_damaged_camera_data_cost_themselves_and_not_the_picture(artifact, runner, photo, tmp_path, out):
    for name, exif in (("a.png", b"Exif\0\0no camera data"), ("b.png", None)):
        write_picture(tmp_path / "in" / name, Picture(photo[:32, :32], "PNG", Metadata(exif)))
    files = FileRunner(artifact, runner, out, InferConfig(encode=EncodeConfig("TIFF")))
    files.run(find_jobs([tmp_path / "in"], out, suffix=".tif"), lambda progress: None)

    assert [result.status for result in files.report.files] == ["done", "done"]
    assert [result.notes for result in files.report.files] == [("its metadata are damaged and left out: eXIf",), ()]
    assert np.array_equal(read_picture(out / "a.tif").samples, read_picture(out / "b.tif").samples)


def test_results_have_the_dates_of_their_files(artifact, runner, photos, out):
    os.utime(photos / "a.png", ns=(10**18, 10**18 + 5 * 10**9))
    restore(artifact, runner, photos, out)
    assert (out / "a.png").stat().st_mtime_ns == 10**18 + 5 * 10**9


def test_resume_does_not_mind_another_memory(artifact, runner, photos, out):
    restore(artifact, runner, photos, out)
    config = InferConfig(RestoreConfig(max_memory=3_000_000_000), resume=True)
    status, _ = restore(artifact, runner, photos, out, config)
    assert status["a.png"] == "skipped"
    status, _ = restore(artifact, runner, photos, out, InferConfig(RestoreConfig(strength=0.5), resume=True))
    assert status["a.png"] == "done"


@pytest.mark.parametrize("strength", [0.0, 0.25])
def test_strength_is_how_much_of_the_change_is_taken(runner, photo, strength):
    part = photo[:32, :40].astype(np.float32) / 255
    whole = Restorer(runner, RestoreConfig(count_process=False)).restore(part)
    some = Restorer(runner, RestoreConfig(count_process=False, strength=strength)).restore(part)
    inside = (whole > 0) & (whole < 1)  # elsewhere it is clipped
    assert inside.mean() > 0.5
    assert np.allclose(some[inside], (part + strength * (whole - part))[inside], atol=1e-5)
    with pytest.raises(ConfigError, match=r"strength is 1\.5"):
        RestoreConfig(strength=1.5)


def test_a_job_with_a_conflict_is_a_failure_by_name(artifact, runner, photos, out):
    conflict = ConfigError("both would be written to it", hint="choose another --out")
    jobs = [Job(photos / "a.png", out / "a.png", "a.png", conflict), Job(photos / "z.webp", out / "z.webp", "z.webp")]
    files = FileRunner(artifact, runner, out, ANEW)
    files.run(jobs, lambda progress: None)
    assert [result.status for result in files.report.files] == ["failed", "done"]
    assert not (out / "a.png").exists()


class StrangeError(Exception):
    """What a library raises that promises nothing."""


@pytest.mark.parametrize("raised", [StrangeError("odd\nthings"), UnicodeDecodeError("utf-8", b"\xe4", 0, 1, "bad")])
@pytest.mark.parametrize("step", ["read_picture", "write_picture", "Restorer.restore_in_place"])
def test_no_exception_of_one_file_ends_a_run(artifact, runner, photos, step, raised):
    out = photos.parent / "out"
    usual = FileRunner(artifact, runner, out, ANEW)
    files, calls = find_jobs([photos], out, "*.[pt][ni][gf]"), []
    real = {"read_picture": read_picture, "write_picture": write_picture}.get(step, Restorer.restore_in_place)

    def strange(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise raised
        return real(*arguments, **options)

    with mock.patch(f"deblur_deploy.infer.run.{step}", strange):
        usual.run(files, lambda progress: None)
    (failure,) = (result for result in usual.report.failures if "broken" not in result.input)
    assert failure.input == str(photos / "a.png")
    assert f"a.png cannot be restored: {type(raised).__name__}: " in failure.error
    assert "\n" not in failure.error
    assert usual.report.count("done") == 1
    assert (out / "sub" / "b.tif").exists()
