"""Films that are cut off, films in part, and films of fields."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from film_maker import Recipe, codes, film_frames, make_film, pictures, restored

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.infer.film.cut_off import is_cut_off
from deblur_deploy.infer.settings import VideoConfig, parse_time

CODECS = {".wmv": "wmv2", ".flv": "flv", ".ts": "mpeg2video", ".avi": "mpeg4", ".webm": "libvpx"}


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4", ".mov", ".avi", ".wmv", ".ts"])
def test_a_film_that_is_cut_off_is_said_and_what_there_is_is_kept(tmp_path, photo, suffix):
    container = {"movflags": "+faststart"} if suffix in (".mp4", ".mov") else {}
    recipe = Recipe(CODECS.get(suffix, "libx264"), ticks=tuple(range(60)), container=container)
    whole = make_film(tmp_path / f"whole{suffix}", pictures(photo, 60), recipe)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) * 2 // 3 + (1 if len(data) * 2 // 3 % 188 == 0 else 0)])

    path, film = restored(cut)
    assert film.ended_early is not None
    assert film.ended_early.startswith("ends early: ")
    assert f"after {film.frames}" in film.ended_early
    assert 10 < film.frames < 60
    assert len(film_frames(path)) == film.frames
    if suffix in (".mkv", ".mp4", ".mov"):
        assert "of 60 frames" in film.ended_early
    assert restored(whole)[1].ended_early is None


def test_a_live_recording_and_files_of_other_kinds_are_not_called_cut_off(tmp_path, photo):
    live = make_film(tmp_path / "live.mkv", pictures(photo), Recipe(container={"live": "1"}))
    (tmp_path / "text").write_text("no film at all")
    (tmp_path / "empty").write_bytes(b"")
    assert not any(is_cut_off(path) for path in (live, tmp_path / "text", tmp_path / "empty"))


def test_a_file_of_a_cut_off_film_fails_with_its_result_kept(artifact, runner, tmp_path, photo):
    from deblur_deploy.infer.jobs import find_jobs
    from deblur_deploy.infer.run import FileRunner
    from deblur_deploy.infer.settings import InferConfig

    whole = make_film(tmp_path / "in" / "whole.mkv", pictures(photo, 6, (32, 32)), Recipe(ticks=tuple(range(6))))
    (tmp_path / "in" / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size - 200])
    (tmp_path / "in" / "none.mkv").write_bytes(b"nothing")
    files = FileRunner(artifact, runner, tmp_path / "out", InferConfig(resume=True))
    jobs = find_jobs([tmp_path / "in"], tmp_path / "out")
    files.run(jobs, lambda progress: None)

    states = {result.input.rpartition("/")[2]: result for result in files.report.files}
    assert {name: result.status for name, result in states.items()} == {
        "whole.mkv": "done",
        "cut.mkv": "failed",
        "none.mkv": "failed",
    }
    assert "cut.mkv ends early: bytes are missing at its end" in states["cut.mkv"].error
    assert "is kept" in states["cut.mkv"].error
    assert len(film_frames(tmp_path / "out" / "cut.mkv")) == states["cut.mkv"].frames > 0
    again = FileRunner(artifact, runner, tmp_path / "out", InferConfig(resume=True))
    again.run(jobs, lambda progress: None)
    assert again.report.count("skipped") == 1  # the whole one; the other is tried again


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_a_part_begins_and_ends_where_it_is_asked_for_with_its_sound_and_chapters(tmp_path, photo, suffix):
    chapters = ("One", "Two") if suffix != ".ts" else ()
    recipe = Recipe(ticks=tuple(range(30)), sound="aac", chapters=chapters)
    source = make_film(tmp_path / f"a{suffix}", pictures(photo, 30), recipe)
    path, film = restored(source, start=Fraction(1, 5), end=Fraction(7, 10))

    before, after = film_frames(source), film_frames(path)
    assert (film.frames, len(after), film.ended_early) == (15, 15, None)
    assert abs(after[0].time - before[0].time) < 0.002
    for index, frame in enumerate(after):
        assert np.abs(codes(frame).astype(int) - codes(before[6 + index])).mean() < 2
    with av.open(str(path)) as reader:
        assert float(reader.duration / av.time_base) == pytest.approx(0.5, abs=0.1)
        assert [chapter["metadata"]["title"] for chapter in reader.chapters()] == list(chapters)
        if chapters:
            assert reader.chapters()[1]["start"] * reader.chapters()[1]["time_base"] == Fraction(3, 10)


def test_a_part_without_pictures_and_times_that_are_none_are_refused(tmp_path, photo):
    source = make_film(tmp_path / "a.mkv", pictures(photo), Recipe())
    with pytest.raises(ConfigError, match=r"no picture of .*a\.mkv lies in this part"):
        restored(source, start=Fraction(60))
    assert not any((tmp_path / "out").iterdir())
    with pytest.raises(ConfigError, match="is empty"):
        VideoConfig(start=Fraction(5), end=Fraction(5))
    with pytest.raises(ConfigError, match="'later' is not a time"):
        parse_time("later")
    assert [parse_time(text) for text in ("90", "1:30", "0:01:30.5")] == [90, 90, Fraction(181, 2)]


def interlaced(tmp_path, photo, suffix):
    recipe = Recipe("mpeg2video", options={"flags": "+ildct+ilme", "qmin": "2", "qmax": "2", "top": "1"})
    shown = []
    for index in range(8):
        early, late = (np.roll(photo, 8 * index + shift, 1)[:64, :96] for shift in (0, 4))
        woven = early.copy()
        woven[1::2] = late[1::2]
        shown.append(np.ascontiguousarray(woven))
    return make_film(tmp_path / f"i{suffix}", shown, recipe)


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mpg"])
def test_interlaced_films_are_refused_or_deinterlaced(tmp_path, photo, suffix):
    source = interlaced(tmp_path, photo, suffix)
    with pytest.raises(ConfigError, match="is interlaced") as error:
        restored(source)
    assert "--deinterlace" in error.value.hint

    path, film = restored(source, deinterlace=True)
    before, after = film_frames(source), film_frames(path)
    assert (film.frames, len(after)) == (8, 8)
    assert [frame.time for frame in after] == pytest.approx([frame.time for frame in before], abs=0.0011)
    assert [frame.interlaced_frame for frame in (before[0], after[0])] == [True, False]
    combs = [np.abs(np.diff(codes(frame).astype(int), axis=0)).mean() for frame in (before[4], after[4])]
    assert combs[1] < 0.8 * combs[0]


def test_progressive_films_go_through_deinterlacing_as_they_are(tmp_path, photo):
    source = make_film(tmp_path / "a.mkv", pictures(photo), Recipe("ffv1"))
    path, _ = restored(source, deinterlace=True)
    for before, after in zip(film_frames(source), film_frames(path), strict=True):
        assert all(np.array_equal(codes(before, index), codes(after, index)) for index in range(3))
        assert before.time == after.time


def test_a_film_that_changes_its_size_is_refused(tmp_path, photo):
    for name, size in (("a", (96, 64)), ("b", (64, 48))):
        make_film(tmp_path / f"{name}.ts", pictures(photo, 8, size), Recipe("mpeg2video"))
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(ArtifactError, match="changes its size"):
        restored(both)


def test_names_with_colons_and_percent_signs_are_files(tmp_path, photo):
    source = make_film(tmp_path / "plain.mkv", pictures(photo), Recipe())
    for name in ("http:a.mkv", "a%03d.mkv", "concat:x|y.mkv"):
        odd = tmp_path / name
        odd.write_bytes(source.read_bytes())
        assert restored(odd)[1].frames == 8
