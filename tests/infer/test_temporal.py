"""Films and numbered frames with the frame before: order, gaps, cuts, resuming, and what cannot be done so."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.core.errors import ConfigError
from deblur_deploy.core.images import Resolution, from_batch, load_rgb, save_rgb, to_batch
from deblur_deploy.infer.jobs import Job, find_jobs
from deblur_deploy.infer.numbered import FrameNumber, in_order, wanted_again
from deblur_deploy.infer.raw import restore_raw
from deblur_deploy.infer.restore import RestoreConfig, Restorer
from deblur_deploy.infer.run import FileRunner
from deblur_deploy.infer.settings import InferConfig
from deblur_deploy.runtime.runner import open_with
from deblur_deploy.runtime.runtimes import OpenOptions

ANEW, RESUME = InferConfig(temporal=True), InferConfig(temporal=True, resume=True)


@pytest.fixture
def temporal(temporal_artifact):
    with open_with(temporal_artifact, "torch", OpenOptions(1, temporal=True)) as opened:
        yield opened


@pytest.fixture
def wanted(temporal, film_frames):
    """The film as its runner restores it."""
    temporal.begin_film()
    restored = [from_batch(temporal.infer(to_batch(frame))) for frame in film_frames]
    temporal.begin_film()
    return restored


@pytest.fixture
def folder(tmp_path, film_frames) -> Path:
    """The frames numbered 8 to 12: by their names as text, 10 comes before 8."""
    (tmp_path / "film").mkdir()
    for index, frame in enumerate(film_frames, start=8):
        save_rgb(tmp_path / "film" / f"frame{index}.png", frame)
    return tmp_path / "film"


def restore(artifact, runner, folder, out, config=ANEW):
    files = FileRunner(artifact, runner, out, config)
    files.run(find_jobs([folder], out), lambda progress: None)
    return {Path(result.input).name: result for result in files.report.files}


def test_numbered_frames_go_through_in_the_order_of_their_numbers(temporal_artifact, temporal, folder, out, wanted):
    results = restore(temporal_artifact, temporal, folder, out)

    assert [result.status for result in results.values()] == ["done"] * 5
    assert not any(result.notes for result in results.values())
    for index, frame in enumerate(wanted, start=8):
        assert np.array_equal(load_rgb(out / f"frame{index}.png"), frame)


def test_a_missing_number_and_a_bad_frame_begin_anew_and_it_is_said(temporal_artifact, temporal, folder, out, wanted):
    (folder / "frame9.png").unlink()
    (folder / "frame11.png").write_bytes(b"no picture")

    results = restore(temporal_artifact, temporal, folder, out)

    assert results["frame11.png"].status == "failed"
    assert "1 frame is missing before this one" in results["frame10.png"].notes[0]
    temporal.begin_film()
    alone = from_batch(temporal.infer(to_batch(load_rgb(folder / "frame10.png"))))
    assert np.array_equal(load_rgb(out / "frame10.png"), alone)
    assert not np.array_equal(alone, wanted[2])
    temporal.begin_film()
    last = from_batch(temporal.infer(to_batch(load_rgb(folder / "frame12.png"))))
    assert np.array_equal(load_rgb(out / "frame12.png"), last)


def test_a_cut_is_said_of_the_frame_behind_it(temporal_artifact, temporal, folder, out):
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    save_rgb(folder / "frame10.png", noise)

    results = restore(temporal_artifact, temporal, folder, out)

    cut = [name for name, result in results.items() if any("cut before this frame" in note for note in result.notes)]
    assert cut == ["frame10.png", "frame11.png"]


def test_two_films_of_one_folder_and_frames_of_another_size_stay_apart(temporal_artifact, temporal, folder, wanted):
    for index in (8, 9):
        (folder / f"other{index + 5}.png").write_bytes((folder / f"frame{index}.png").read_bytes())
    save_rgb(folder / "frame13.png", np.ascontiguousarray(load_rgb(folder / "frame8.png")[:64]))
    out = folder.with_name("out")

    results = restore(temporal_artifact, temporal, folder, out)

    assert all(result.status == "done" for result in results.values())
    for index in (0, 1):
        assert np.array_equal(load_rgb(out / f"other{13 + index}.png"), wanted[index])


def test_a_second_run_goes_on_as_if_it_had_never_stopped(temporal_artifact, temporal, folder, out, wanted):
    later = {index: (folder / f"frame{index}.png").read_bytes() for index in (11, 12)}
    for index in later:
        (folder / f"frame{index}.png").unlink()
    restore(temporal_artifact, temporal, folder, out)
    written = (out / "frame8.png").stat().st_mtime_ns
    for index, content in later.items():
        (folder / f"frame{index}.png").write_bytes(content)

    results = restore(temporal_artifact, temporal, folder, out, RESUME)

    assert {name: result.status for name, result in results.items()} == {
        **{f"frame{index}.png": "skipped" for index in (8, 9, 10)},
        **{f"frame{index}.png": "done" for index in (11, 12)},
    }
    assert (out / "frame8.png").stat().st_mtime_ns == written
    for index in (11, 12):
        assert np.array_equal(load_rgb(out / f"frame{index}.png"), wanted[index - 8])


def test_raw_frames_are_one_film_and_the_next_stream_another(temporal, film_frames, wanted):
    data = b"".join(frame.tobytes() for frame in film_frames)
    for _ in range(2):
        sink = io.BytesIO()
        count = restore_raw(io.BytesIO(data), sink, Resolution(128, 96), Restorer(temporal), lambda count: None)

        assert count == 5
        restored = np.frombuffer(sink.getvalue(), np.uint8).reshape(5, 96, 128, 3)
        assert np.array_equal(restored, np.stack(wanted))


def test_frames_that_would_go_in_tiles_are_refused(temporal, film_frames):
    with pytest.raises(ConfigError, match="128x96 would go through in tiles") as caught:
        Restorer(temporal, RestoreConfig(tile=Resolution(64, 64))).restore(film_frames[0])
    assert "--tile" in caught.value.hint


def test_dicom_files_are_refused(temporal_artifact, temporal, tmp_path, out):
    (tmp_path / "a.dcm").write_bytes(b"DICM")
    files = FileRunner(temporal_artifact, temporal, out, ANEW)

    files.run([Job(tmp_path / "a.dcm", out / "a.dcm", "a.dcm")], lambda progress: None)

    assert "DICOM" in str(files.report.files[0].error)


def named(*names: str) -> list[Job]:
    return [Job(Path(name), Path("out") / name, name) for name in names]


def test_the_order_is_by_folder_name_and_number():
    jobs = named("b/2.png", "a/x10.png", "a/x9.png", "a/plain.png", "b/1.png")

    assert [job.name for job in in_order(jobs)] == ["a/plain.png", "a/x9.png", "a/x10.png", "b/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("before", "after", "missing"),
    [
        ("a/1.png", "a/2.png", 0),
        ("a/0099.png", "a/0100.png", 0),
        ("a/1.png", "a/5.png", 3),
        ("a/1.png", "b/2.png", None),
        ("a/x1.png", "a/y2.png", None),
        ("a/2.png", "a/1.png", None),
        ("a/plain.png", "a/plain.png", None),
        ("a/1.png", "a/2.jpg", None),
    ],
)
def test_which_pictures_follow_each_other(before, after, missing):
    assert FrameNumber.of(Path(after)).missing_after(FrameNumber.of(Path(before))) == missing


def test_done_frames_go_again_only_where_one_behind_them_is_not_done():
    jobs = named("1.png", "2.png", "3.png", "5.png", "6.png")

    assert wanted_again(jobs, [True, True, False, True, True]) == [True, True, False, False, False]
    assert wanted_again(jobs, [True, False, True, True, False]) == [True, False, False, True, False]


def test_a_film_begins_anew_behind_its_cut_and_the_next_film_again(temporal, film_frames, tmp_path):
    av = pytest.importorskip("av", reason="films need the extra `video`")
    from deblur_deploy.infer.settings import VideoConfig
    from deblur_deploy.infer.video import restore_video
    from tests.infer.test_video import frames_of

    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as writer:
        stream = writer.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "bgr0"
        for frame in (*film_frames[:2], noise, noise, *film_frames[2:]):
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        writer.mux(stream.encode(None))
    restorer = Restorer(temporal)

    notes = []
    for name in ("first.mkv", "second.mkv"):
        film = restore_video(tmp_path / "a.mkv", tmp_path / name, restorer, VideoConfig(), lambda count, of: None)
        notes.append(film.notes)

    assert all("the film is cut 2 times, and the network began anew there" in found for found in notes)
    first, second = (frames_of(tmp_path / name)[1] for name in ("first.mkv", "second.mkv"))
    assert len(first) == 7
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
