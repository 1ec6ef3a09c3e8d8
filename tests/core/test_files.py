"""A file is the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.files import PARTIAL, remove_partials, whole_file, write_text


def test_a_file_and_its_folders_are_made_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to(tmp_path / "sub" / "a.txt")
    write_text(tmp_path / "sub" / "a.txt", "old")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "sub" / "a.txt").read_text() == "new"


def test_a_link_is_replaced_and_the_file_behind_it_keeps_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "kept.png").write_bytes(b"original")
    (tmp_path / "link.png").symlink_to(tmp_path / "kept.png")
    with whole_file(tmp_path / "link.png") as partial:
        partial.write_bytes(b"result")
    assert not (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "link.png").read_bytes() == b"result"
    assert (tmp_path / "kept.png").read_bytes() == b"original"


def test_a_loop_of_links_is_refused_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    with pytest.raises(ArtifactError, match=r"a\.txt cannot be written: .*symbolic links"):
        write_text(tmp_path / "a.txt", "text")
    with whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("text")
    assert (tmp_path / "b.txt").read_text() == "text"


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "half \udc80")
    with pytest.raises(ArtifactError, match=r"below-a-file\.txt cannot be written"):
        write_text(tmp_path / "a.txt" / "below-a-file.txt", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail() -> None:
        with whole_file(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            assert partial.name.startswith(".a.")
            assert partial.suffix == ".txt"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize(
    "stem", ["\u753b" * 80, "a" + "\u753b" * 80, "a" * 251, "\udcff" * 100], ids=["cjk", "odd", "ascii", "no-text"]
)
def test_names_of_any_alphabet_may_be_as_long_as_the_system_allows(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.png"
    with whole_file(path) as partial:
        partial.write_bytes(b"picture")
        assert PARTIAL in partial.suffixes
    assert path.read_bytes() == b"picture"


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("fsync") or sync(handle))
    monkeypatch.setattr(Path, "replace", lambda self, to: events.append("replace") or replace(self, to))
    write_text(tmp_path / "a.txt", "text")
    assert events == ["fsync", "replace"]
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in (".a [1].abcd_123.partial.png", "sub/.b.abcd_123.partial.mp4", "sub/.c.abcd_123.partial"):
        (tmp_path / name).write_bytes(b"half")
    write_text(tmp_path / "a [1].png", "whole")
    remove_partials(tmp_path)
    assert not (tmp_path / ".a [1].abcd_123.partial.png").exists()
    assert len(list((tmp_path / "sub").iterdir())) == 2
    remove_partials(tmp_path, below=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a [1].png"]
