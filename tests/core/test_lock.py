"""Two processes that are really started: one directory each, or a message that names the other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deblur_deploy.cli.options import claim, new_directory, release_claims
from deblur_deploy.core.artifact import Draft, NetworkSpec, Step, load_artifact, write_artifact
from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.core.images import ImageSpec
from deblur_deploy.core.lock import DirectoryInUseError, locked

HOLDING = """
import sys
from pathlib import Path
from deblur_deploy.core.lock import locked

sys.argv[0] = "deblur-deploy"
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""

CHOOSING = """
import sys
from pathlib import Path
from deblur_deploy.cli.options import new_directory

print("ready", flush=True)
sys.stdin.readline()
print(new_directory(None, Path(sys.argv[1]), "prune").name, flush=True)
sys.stdin.read()
"""

WRITING = """
import sys
from pathlib import Path
from deblur_deploy.core.artifact import Draft, NetworkSpec, Step, write_artifact
from deblur_deploy.core.images import ImageSpec

def write(path):
    path.write_bytes(b"the first")
    print("writing", flush=True)
    sys.stdin.read()

step = Step("prune", {}, {}, None, "2026-01-02T00:00:00.000000+00:00", {})
write_artifact(Path(sys.argv[1]), Draft("checkpoint", "weights.bin", write, NetworkSpec("srn", {}), ImageSpec(), step))
"""


@contextlib.contextmanager
def started(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process with pipes to talk to it; it is ended with the block."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def draft(content: bytes) -> Draft:
    step = Step("import", {}, {}, None, "2026-01-01", {})
    return Draft(
        "checkpoint",
        "w.bin",
        lambda path: path.write_bytes(content) and None,
        NetworkSpec("srn", {}),
        ImageSpec(),
        step,
    )


def test_the_second_process_is_told_who_the_first_is(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    with started(HOLDING, out) as holder:
        assert heard(holder) == "locked"
        message = rf"is in use by process {holder.pid} \(deblur-deploy .*runs/a\)"
        with pytest.raises(DirectoryInUseError, match=message), locked(out):
            pytest.fail("both have it")
    with locked(out) as is_alone:
        assert is_alone


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with started(HOLDING, tmp_path / "a") as holder:
        assert heard(holder) == "locked"
        os.kill(holder.pid, signal.SIGKILL)
        assert holder.wait(30) == -signal.SIGKILL
        assert (tmp_path / ".a.lock").exists()
        with locked(tmp_path / "a"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_commands_that_start_at_once_get_a_number_each(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(CHOOSING, tmp_path / "runs")) for _ in range(3)]
        assert [heard(process) for process in processes] == ["ready"] * 3
        for process in processes:
            tell(process, "go\n")
        names = {heard(process) for process in processes}
    assert names == {"prune-001", "prune-002", "prune-003"}
    try:
        assert new_directory(None, tmp_path / "runs", "prune").name == "prune-001"
    finally:
        release_claims()


def test_an_artifact_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "a"
    with started(WRITING, out) as writer:
        assert heard(writer) == "writing"
        with pytest.raises(DirectoryInUseError, match=f"process {writer.pid} "):
            write_artifact(out, draft(b"the second"))
        assert len(list(tmp_path.glob(".a.*.staging"))) == 1
        assert writer.stdin is not None
        writer.stdin.close()
        assert writer.wait(30) == 0
    assert load_artifact(out).path.read_bytes() == b"the first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_process_may_lock_a_directory_again_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with locked(tmp_path / "a"), locked(tmp_path / "b" / ".." / "a"), locked(tmp_path / "link"):
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".lock"] == [".a.lock"]
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_folders_made_for_a_lock_go_with_it_unless_they_are_used(tmp_path: Path) -> None:
    with locked(tmp_path / "one" / "two" / "a"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "one" / "two" / "a"):
        (tmp_path / "one" / "kept").touch()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["kept"]


def test_a_claim_lasts_until_the_command_ends(tmp_path: Path) -> None:
    claim(tmp_path / "a")
    assert (tmp_path / ".a.lock").exists()
    release_claims()
    assert list(tmp_path.iterdir()) == []


def test_an_older_artifact_set_aside_by_a_killed_run_is_put_back(tmp_path: Path) -> None:
    older = write_artifact(tmp_path / "a", draft(b"older"))
    (tmp_path / ".a.old.xyz").mkdir()
    (tmp_path / "a").rename(tmp_path / ".a.old.xyz" / "a")

    def write(path: Path) -> None:
        assert load_artifact(tmp_path / "a") == older
        raise OSError("stopped")

    with pytest.raises(ArtifactError, match="stopped"):
        write_artifact(tmp_path / "a", Draft("checkpoint", "w", write, older.network, older.image, older.history[0]))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
