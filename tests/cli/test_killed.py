"""A stage that is killed or interrupted leaves no artifact, and runs again as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.sources import find_artifacts

PAUSING = """
import signal, sys, time
from pathlib import Path
import deblur_deploy.core.artifact, deblur_deploy.data.pairs
import deblur_deploy.compress.finetune as finetune
from deblur_deploy.cli import main

moment, marker, photos = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
deblur_deploy.data.pairs.shipped = lambda folder: photos
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it


def pause():
    marker.touch()
    time.sleep(600)


def fit_slowly(net, batches, config, teacher, report):
    return fit(net, batches, config, teacher, lambda step, loss: pause() if step == 2 else None)


def write_by_half(path, text):
    path.write_text(text[: len(text) // 2])
    pause()


fit = finetune.fit
if moment == "tuning":
    finetune.fit = fit_slowly
elif moment == "writing the manifest":
    deblur_deploy.core.artifact._write_synced = write_by_half
elif moment == "renaming":
    deblur_deploy.core.artifact._put_in_place = lambda staging, out: pause()
sys.argv[1:] = sys.argv[4:]
main()
"""
"""The command line, which stops for good at a moment and says by a file that it has come to it."""


@dataclass(frozen=True)
class Paused:
    """A stage that stands still in the middle of its work."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self, number: signal.Signals) -> int:
        """Send a signal as a terminal does, to the whole group; returns the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(timeout=30)


@contextlib.contextmanager
def paused(moment: str, photos: Path, folder: Path, *arguments: object) -> Iterator[Paused]:
    """Start a command and wait until it has come to a moment; whatever is left of it is killed in the end."""
    marker, log = folder / "marker", folder / "log"
    command = [sys.executable, "-c", PAUSING, moment, str(marker), str(photos), *map(str, arguments)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not marker.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, f"never came to {moment}: {log.read_text()}"
            time.sleep(0.02)
        yield Paused(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


@pytest.mark.parametrize("moment", ["tuning", "writing the manifest"])
def test_a_killed_run_leaves_no_artifact(run, made, small_set, tmp_path, moment):
    out = tmp_path / "runs" / "pruned"
    steps = 5 if moment == "tuning" else 0

    with paused(moment, small_set, tmp_path, "prune", made["import"], "--steps", steps, "--out", out) as stage:
        assert stage.end(signal.SIGKILL) == -signal.SIGKILL

    assert not out.exists()
    with pytest.raises(ArtifactError, match="there is no"):
        load_artifact(out)
    assert find_artifacts(tmp_path / "runs") == []
    assert "Error" not in run("prune", made["import"], "--steps", 0, "--out", out).done().err
    assert [step.stage for step in load_artifact(out).history] == ["import", "prune"]


def test_a_killed_run_leaves_the_older_artifact_alone(run, made, small_set, tmp_path):
    out = tmp_path / "runs" / "pruned"
    run("prune", made["import"], "--steps", 0, "--keep", 1.0, "--out", out).done()
    before = load_artifact(out)

    again = ("prune", made["import"], "--steps", 0, "--keep", 0.7, "--out", out)
    with paused("renaming", small_set, tmp_path, *again) as stage:
        stage.end(signal.SIGKILL)

    assert load_artifact(out) == before
    run(*again).done()
    assert load_artifact(out).figures["params"] < before.figures["params"]


def test_an_interrupted_run_says_so_in_one_line(made, small_set, tmp_path):
    out = tmp_path / "runs" / "pruned"

    with paused("tuning", small_set, tmp_path, "prune", made["import"], "--steps", 5, "--out", out, "--json") as stage:
        assert stage.end(signal.SIGINT) == 130

    source, warning, *rest = stage.log.read_text().splitlines()
    assert source.startswith("source ")
    assert "does harm" in warning  # a network of random weights does
    assert rest == ["Interrupted. Artifacts that were finished are kept."]
    assert not (tmp_path / "runs").exists()


def test_a_terminated_run_cleans_up(made, small_set, tmp_path):
    options = ("--steps", 0, "--out", tmp_path / "runs" / "pruned", "--json")

    with paused("writing the manifest", small_set, tmp_path, "prune", made["import"], *options) as stage:
        assert stage.end(signal.SIGTERM) == 143

    assert [line[:9] for line in stage.log.read_text().splitlines()] == ["source   ", "warning  "]
    assert not (tmp_path / "runs").exists()


def test_interrupted_while_writing_nothing_is_left(run, checkpoint_file, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deblur_deploy.core.artifact._put_in_place", interrupted)

    outcome = run("import", checkpoint_file, "--runs", tmp_path / "runs")

    assert outcome.code == 130
    assert outcome.err.startswith("Interrupted. ")
    assert not (tmp_path / "runs").exists()
