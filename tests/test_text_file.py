"""A text file is the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deblur_deploy.errors import ArtifactError
from deblur_deploy.text_file import write_text


def test_a_file_and_its_folders_are_made_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to(tmp_path / "sub" / "a.txt")
    write_text(tmp_path / "sub" / "a.txt", "old")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "sub" / "a.txt").read_text() == "new"


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
