"""SIGKILL before each single change that a stage makes to the disk: nothing half is left, and the next run goes on.

A process of its own imports everything once. For each change it forks a child that runs the command under an audit
hook (PEP 578), which counts the changes below the runs' folder and kills the child at one of them; a second child then
runs the same command to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.core.artifact import Draft, NetworkSpec, Step, hash_file, write_artifact
from deblur_deploy.core.images import ImageSpec, save_rgb
from deblur_deploy.network.checkpoint import import_checkpoint
from deblur_deploy.network.srn import SRN, SRNConfig

DRIVER = """
import os, shutil, signal, sys
from pathlib import Path
from deblur_deploy.core.artifact import Draft, NetworkSpec, Step, load_artifact, write_artifact
from deblur_deploy.cli.dispatch import run_command
from deblur_deploy.core.images import ImageSpec

work, older, photos, step, out, name, *arguments = sys.argv[1:]
work, out, step = Path(work), Path(out), int(step)
if name != "write":
    import torch
    import deblur_deploy.data.pairs, deblur_deploy.network.checkpoint
    torch.set_num_threads(1)
if name in ("prune", "run"):
    import deblur_deploy.compress.prune
if name in ("qat", "run"):
    import deblur_deploy.compress.quantize, modelopt.torch.quantization
if name in ("export-onnx", "run"):
    import deblur_deploy.export.to_onnx, onnxruntime, openvino
if name == "train":
    import deblur_deploy.training.train
if photos:
    deblur_deploy.data.pairs.shipped = lambda folder: Path(photos)
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree"}


def is_change(event, given):
    if event == "open":
        path, mode, flags = given
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return writes and isinstance(path, str) and path.startswith(str(work))
    return event in CHANGES and str(given[0]).startswith(str(work))


def write():
    step = Step("import", {}, {}, None, "2026-01-01", {})
    payload = lambda path: path.write_bytes(b"weights") and None
    write_artifact(out, Draft("checkpoint", "w.bin", payload, NetworkSpec("srn", {}), ImageSpec(), step))
    return 0


def child(at):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    seen = 0

    def hook(event, given):
        nonlocal seen
        if is_change(event, given):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    sys.stdout = sys.stderr = open(os.devnull if at else sys.argv[1] + ".log", "w")
    code = write() if name == "write" else run_command(name, arguments)
    sys.stdout.flush()
    os._exit(code)


at = kills = 0
while True:
    at += step
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if older:
        shutil.copytree(older, out)
    status = child(at)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0, (at, status)
        break
    kills += 1
    for manifest in work.rglob("manifest.json"):
        if not any(part.startswith(".") for part in manifest.relative_to(work).parts):
            load_artifact(manifest.parent)  # what is there is whole
    if older and not out.exists():
        assert list(work.glob(f".{out.name}.old.*/{out.name}/manifest.json")), "the older artifact is lost"
    status = child(0)
    assert status == 0, (at, status, Path(sys.argv[1] + ".log").read_text())
    load_artifact(out)
    hidden = [str(path) for path in work.rglob(".*") if not path.name.endswith(".lock")]
    assert hidden == [], (at, hidden)
print(kills)
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1)))
    torch.nn.init.normal_(net.head.weight, std=0.02)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


@pytest.fixture
def photographs(photo: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Stands for the shipped photographs: one to calibrate on and one to evaluate on."""
    folder = tmp_path / "shipped" / "photos"
    folder.mkdir(parents=True)
    tables = []
    for split in ("calibration", "evaluation"):
        save_rgb(folder / f"{split}.png", photo if split == "calibration" else photo[32:128, 64:176])
        sha256 = hash_file(folder / f"{split}.png")
        tables.append(f'[[image]]\nfile = "{split}.png"\nsha256 = "{sha256}"\nsplit = "{split}"\n')
    (folder / "set.toml").write_text("\n".join(tables))
    return tmp_path / "shipped"


def kill_everywhere(
    tmp_path: Path, name: str, arguments: Sequence[object], older: Path | None = None, photos: Path | None = None
) -> int:
    """How many kills a command survived, one before each change that it makes below ``tmp_path / "runs"``."""
    work = tmp_path / "runs"
    out = work / ("small/onnx-original" if name == "run" else "out")
    given = [*arguments, *(("--runs", work) if name == "run" else ("--out", out))]
    command = [sys.executable, "-c", DRIVER, work, older or "", photos or "", 1, out, name, *given]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return int(json.loads(ended.stdout))


@pytest.mark.parametrize("over_an_older_one", [True, False])
def test_writing_an_artifact(over_an_older_one: bool, tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"older weights")

    step = Step("import", {}, {}, None, "2025-01-01", {})
    older = Draft("checkpoint", "w.bin", write, NetworkSpec("srn", {}), ImageSpec(), step)
    write_artifact(tmp_path / "older", older)
    assert kill_everywhere(tmp_path, "write", [], tmp_path / "older" if over_an_older_one else None) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_import_over_an_older_artifact(weights: Path, tmp_path: Path) -> None:
    import_checkpoint(weights, "srn", tmp_path / "older")
    assert kill_everywhere(tmp_path, "import", [weights], older=tmp_path / "older") >= 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "options"),
    [("prune", ["--steps", 1]), ("qat", ["--steps", 1]), ("export-onnx", ["--res", "64x48"])],
    ids=["prune", "qat", "export-onnx"],
)
def test_every_stage(name: str, options: list[object], weights: Path, photographs: Path, tmp_path: Path) -> None:
    import_checkpoint(weights, "srn", tmp_path / "source")
    assert kill_everywhere(tmp_path, name, [tmp_path / "source", *options], photos=photographs) >= 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_recipe(weights: Path, photographs: Path, tmp_path: Path) -> None:
    import_checkpoint(weights, "srn", tmp_path / "source")
    recipe = tmp_path / "small.toml"
    fit = "tuning.fit = { steps = 1, batch = 1, crop = 32 }"
    recipe.write_text(f'source = "source"\n[prune]\n{fit}\n[export]\nwidth = 64\nheight = 48\n')
    assert kill_everywhere(tmp_path, "run", [recipe], photos=photographs) >= 15
