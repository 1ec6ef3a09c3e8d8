"""The drop folder takes a file when nobody writes to it any more, and takes it again when it changes."""

from __future__ import annotations

import pytest

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.infer.watch import arriving_jobs, serve


def test_files_are_taken_once_they_have_settled(tmp_path, out):
    drop = tmp_path / "drop"
    drop.mkdir()
    looks = arriving_jobs(drop, out, poll_seconds=0)

    def look():
        return [job.name for job in next(looks)]

    assert look() == []
    (drop / "a.png").write_bytes(b"12")
    assert look() == []
    (drop / "a.png").write_bytes(b"1234")
    assert look() == []
    assert look() == ["a.png"]
    assert look() == []
    (drop / "sub").mkdir()
    (drop / "sub" / "b.jpg").write_bytes(b"1")
    (drop / "note.txt").write_bytes(b"1")
    (drop / "a.png").write_bytes(b"123456")
    assert look() == []
    assert look() == ["a.png", "sub/b.jpg"]


def test_results_may_lie_inside_the_drop_folder_but_not_be_it(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"1")
    looks = arriving_jobs(tmp_path, tmp_path / "out", poll_seconds=0)
    assert [next(looks) for _ in range(3)] == [[], [], []]
    with pytest.raises(ConfigError, match="--out is the input folder"):
        next(arriving_jobs(tmp_path, tmp_path))


def test_a_missing_drop_folder_is_refused(tmp_path, out):
    with pytest.raises(ArtifactError, match="is not a folder"):
        next(arriving_jobs(tmp_path / "missing", out))


def test_ctrl_c_is_the_normal_end():
    worked = []

    def batches():
        yield []
        yield ["job"]
        raise KeyboardInterrupt

    serve(batches(), worked.append)
    assert worked == [["job"]]


def test_a_result_is_never_written_over_another_or_over_an_input(tmp_path, out):
    """What the plain run refuses before it starts is found as the files arrive, and the others go on."""
    drop = tmp_path / "drop"
    drop.mkdir()
    (drop / "a.png").write_bytes(b"1")
    out.mkdir()
    looks = arriving_jobs(drop, out, suffix=".png", poll_seconds=0)
    assert [next(looks), [job.conflict for job in next(looks)]] == [[], [None]]

    (drop / "a.jpg").write_bytes(b"2")
    (drop / "a.png").write_bytes(b"changed")
    (drop / "b.png").write_bytes(b"3")
    (out / "b.png").symlink_to(drop / "b.png")
    next(looks)
    conflicts = {job.name: job.conflict for job in next(looks)}
    assert conflicts["a.png"] is None
    assert "a.png and" in conflicts["a.jpg"].message
    assert "would both be written to" in conflicts["a.jpg"].message
    assert "would be written over the input" in conflicts["b.png"].message
