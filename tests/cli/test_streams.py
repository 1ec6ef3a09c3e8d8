"""Terminals and logs that lack a character: the command prints a plain one and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deblur_deploy.core.sources import shipped

MAIN = "from deblur_deploy.cli import main; main()"


def command(encoding: str, *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process whose streams have an encoding."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    return subprocess.run([sys.executable, "-c", MAIN, *arguments], capture_output=True, check=False, env=environment)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_table_is_printed_whatever_the_encoding(encoding: str) -> None:
    ended = command(encoding, "inspect", str(shipped("models") / "srn-demo-p70-int8"))
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stderr == b""
    text = ended.stdout.decode(encoding)
    assert "qat" in text
    assert "?" not in text  # a stand-in for every character that tables have


def test_names_that_are_not_text_are_printed_byte_by_byte(tmp_path: Path) -> None:
    missing = os.fsencode(tmp_path) + b"/caf\xe9.png"
    ended = command("utf-8:strict", "inspect", missing)
    assert ended.returncode == 1
    assert b"caf\xe9.png" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_letters_lose_their_accents_and_others_become_question_marks() -> None:
    script = (
        "from deblur_deploy.cli import print_what_cannot_be_encoded\n"
        "print_what_cannot_be_encoded()\nprint('caf\\u00e9 \\u2192 \\u221e \\u2026 \\u732b')"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, env=environment)
    assert ended.stdout == b"cafe -> inf ... ?\n"
