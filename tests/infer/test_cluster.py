"""A cluster of two workers on this machine: the same bytes as here, and a worker that is killed loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.infer.done_log import DONE_LOG
from deblur_deploy.infer.encode import write_picture
from deblur_deploy.infer.jobs import find_jobs
from deblur_deploy.infer.picture import Picture
from deblur_deploy.infer.run import FileRunner
from deblur_deploy.infer.settings import InferConfig
from deblur_deploy.runtime.runner import open_runner

ROOT = Path(__file__).parents[2]
FILES = 10
MARK = "DEBLUR_DEPLOY_TEST_RUN"


@pytest.fixture
def photos(tmp_path, photo):
    for index in range(FILES):
        large = np.tile(np.roll(photo, index * 7, 1), (2, 2, 1))
        write_picture(tmp_path / "photos" / "sub" / f"{index}.png", Picture(large, "PNG"))
    (tmp_path / "photos" / "broken.jpg").write_text("no picture")
    return tmp_path / "photos"


def start(arguments, tmp_path, mark):
    """The command as a process of its own, which every process that Ray starts for it can be told by."""
    home = tmp_path / "home"  # where Ray keeps the key of its clusters
    home.mkdir()
    given = {MARK: mark, "HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | given
    return subprocess.Popen(
        [sys.executable, "-m", "deblur_deploy.cli", "infer", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )


def workers(mark):
    """Process ids of the networks that Ray runs for the marked command."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:  # gone again
            continue
        if name.startswith(b"ray::Worker") and f"{MARK}={mark}".encode() in environment:
            found.append(int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the worker to kill is found through /proc")
def test_two_workers_give_the_same_bytes_though_one_is_killed(artifact, photos, tmp_path):
    pytest.importorskip("ray", reason="clusters need the extra `ray`")
    with open_runner(artifact, "torch", threads=1) as runner:  # as many as a worker has: sums are rounded by threads
        alone = FileRunner(artifact, runner, tmp_path / "alone", InferConfig())
        alone.run(find_jobs([photos], tmp_path / "alone"), lambda progress: None)

    out, mark = tmp_path / "out", uuid.uuid4().hex
    arguments = [artifact.directory, photos, "--out", out, "--engine", "ray", "--workers", "2", "--json"]
    child = start(arguments, tmp_path, mark)
    try:
        deadline = time.monotonic() + 300
        while not any(out.rglob("[0-9].png")) or len(workers(mark)) < 2:  # on a busy machine one starts much later
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        networks = workers(mark)
        os.kill(networks[0], signal.SIGKILL)
        answer, messages = child.communicate(timeout=300)
    finally:
        child.kill()
        child.wait()

    assert len(networks) == 2
    assert child.returncode == 1, messages
    assert "1 of 11 files failed: broken.jpg" in messages
    assert "workers died; others started their files again" in messages
    report = json.loads(answer)
    assert (report["done"], report["failed"], report["runtime"]) == (FILES, 1, "torch")
    for path in (tmp_path / "alone" / "sub").iterdir():
        assert (out / "sub" / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        DONE_LOG,
        *(f"{index}.png" for index in range(FILES)),
    }
    assert sum('"done"' in line for line in (out / DONE_LOG).read_text().splitlines()) == FILES
