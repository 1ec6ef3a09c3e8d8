"""Faults that are really made: a full disk, one that cannot be written, a clock set back, changed bytes, no memory."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Draft, NetworkSpec, Step, load_artifact, new_step, write_artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.files import check_writable
from deblur_deploy.core.images import ImageSpec, save_rgb
from deblur_deploy.core.sources import find_artifacts, resolve_source
from deblur_deploy.data.cache import open_photos
from deblur_deploy.network.checkpoint import import_checkpoint
from deblur_deploy.network.srn import SRN, SRNConfig
from deblur_deploy.training.state import SavedState, StateKeeper


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "deblur-deploy-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    torch.save(SRN(SRNConfig.from_base(8, (1, 1, 1))).state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def draft(content: bytes, created: str = "2026-01-01", parent: str | None = None) -> Draft:
    def write(path: Path) -> None:
        path.write_bytes(content)

    step = Step("import", {}, {}, parent, created, {"psnr_db": 30.5})
    return Draft("checkpoint", "w.bin", write, NetworkSpec("srn", {}), ImageSpec(), step)


# The disk


def test_a_full_disk_keeps_the_older_artifact_and_nothing_else(small_disk: Path, weights: Path) -> None:
    older = write_artifact(small_disk / "a", draft(b"older"))
    with pytest.raises(ArtifactError, match=r"a cannot be written: .*No space left") as error:
        import_checkpoint(weights, "srn", small_disk / "a")
    assert "free space" in error.value.hint
    assert load_artifact(small_disk / "a") == older
    assert [path.name for path in small_disk.iterdir()] == ["a"]


def test_a_full_disk_keeps_the_older_state_of_a_run(small_disk: Path) -> None:
    keeper = StateKeeper(small_disk / "run", 1.0, {})
    keeper.save(SavedState(1, {"w": torch.zeros(10)}, {}))
    with pytest.raises(ArtifactError, match="the state of the run cannot be written"):
        keeper.save(SavedState(2, {"w": torch.zeros(100_000)}, {}))
    assert keeper.load().step == 1
    assert [path.name for path in (small_disk / "run").iterdir()] == ["state-00000001"]


def test_a_full_disk_leaves_no_half_photograph_in_the_cache(small_disk: Path, photo: NDArray[np.uint8], tmp_path: Path):
    save_rgb(tmp_path / "a.png", photo)
    with pytest.raises(ArtifactError, match=r"the cache of .*a\.png.* cannot be used"):
        open_photos([tmp_path / "a.png"], small_disk / "cache")
    assert list((small_disk / "cache").iterdir()) == []


def test_a_disk_that_cannot_be_written(small_disk: Path) -> None:
    older = write_artifact(small_disk / "a", draft(b"older"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out in (small_disk / "a", small_disk / "new"):
        with pytest.raises(ArtifactError, match="cannot be written"):
            check_writable(out)
        with pytest.raises(ArtifactError, match="Read-only file system"):
            write_artifact(out, draft(b"newer"))
    assert find_artifacts(small_disk) == [older]


# The clock


def test_a_clock_set_back_does_not_make_a_child_older_than_its_parent(tmp_path: Path) -> None:
    ahead = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)).isoformat(timespec="microseconds")
    parent = write_artifact(tmp_path / "parent", draft(b"made before the clock was set back", ahead))
    step = new_step("prune", {}, parent, {})
    written = Draft("checkpoint", "w.bin", draft(b"child").write, parent.network, parent.image, step, parent.history)
    child = write_artifact(tmp_path / "child", written)

    taken, reason = resolve_source(None, tmp_path, lambda artifact: True)

    assert find_artifacts(tmp_path) == [parent, child]
    assert taken == child
    assert "dated later than this machine's clock" in reason


# Bytes


def test_a_changed_bit_anywhere_in_an_artifact_is_noticed(tmp_path: Path) -> None:
    whole = write_artifact(tmp_path / "a", draft(bytes(range(256))))
    for path in (whole.path, tmp_path / "a" / "manifest.json"):
        content = path.read_bytes()
        for at in range(len(content)):
            path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
            try:
                found = load_artifact(tmp_path / "a")
            except ArtifactError:
                continue
            assert found == whole, f"byte {at} of {path.name}"  # white space between the facts
        path.write_bytes(content)
    assert load_artifact(tmp_path / "a") == whole


# Memory

WITHOUT_MEMORY = """
import resource, sys
from pathlib import Path
import torch
import deblur_deploy.compress.prune
from deblur_deploy.cli.dispatch import run_command

torch.set_num_threads(1)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 60_000_000,) * 2)
sys.exit(run_command(sys.argv[1], sys.argv[2:]))
"""

WORKER_KILLED = """
import multiprocessing, os, signal, sys, threading, time
import torch
import deblur_deploy.training.train
from deblur_deploy.cli.dispatch import run_command


def kill_worker():
    while not (children := multiprocessing.active_children()):
        time.sleep(0.01)
    os.kill(children[0].pid, signal.SIGKILL)


torch.set_num_threads(1)
threading.Thread(target=kill_worker, daemon=True).start()
sys.exit(run_command(sys.argv[1], sys.argv[2:]))
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_memory_that_runs_out_is_one_error_and_leaves_nothing(weights: Path, tmp_path: Path) -> None:
    import_checkpoint(weights, "srn", tmp_path / "source")
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "large.png", np.zeros((6000, 8000, 3), np.uint8))

    options = ("--data", tmp_path / "photos", "--steps", 1, "--out", tmp_path / "runs" / "out")
    ended = run(WITHOUT_MEMORY, "prune", tmp_path / "source", *options)

    assert ended.returncode == 1, ended.stderr
    assert "Error: memory ran out" in ended.stderr
    assert "Hint: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_a_worker_that_the_system_kills_is_one_error(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "one.png", photo)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('photos = "photos"\nbase = 8\ndepths = [1, 1, 1]\n[fit]\nsteps = 100000\nbatch = 1\ncrop = 32\n')
    options = ("--data", tmp_path / "photos", "--out", tmp_path / "runs" / "out", "--workers", 1)

    ended = run(WORKER_KILLED, "train", recipe, *options)

    assert ended.returncode == 1, ended.stderr
    assert "Error: memory ran out: DataLoader worker" in ended.stderr
    # Where the signal meets one of PyTorch's guarded imports, it logs that with a trace, behind a prefix.
    assert not [line for line in ended.stderr.splitlines() if line.startswith("Traceback")]
