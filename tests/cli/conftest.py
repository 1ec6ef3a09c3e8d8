"""The command line on tiny networks and photographs: what a command printed, and artifacts made by commands."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deblur_deploy.cli import main
from deblur_deploy.core.artifact import hash_file
from deblur_deploy.core.images import save_rgb
from deblur_deploy.network.srn import SRN, SRNConfig


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The only thing on stdout: one strict JSON object on one line."""
        (line,) = self.out.splitlines()
        plain = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert isinstance(plain, dict)
        return plain

    def done(self) -> Outcome:
        """Check that it went well."""
        assert self.code == 0, self.err
        return self

    def refusal(self, code: int) -> str:
        """Check that it ended with one error, one hint and this exit code; returns what it printed on stderr."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        starts = [line[:6].strip() for line in self.err.splitlines()]
        assert starts.count("Error:") == 1, self.err
        assert starts.count("Hint:") == 1, self.err
        assert starts.index("Error:") < starts.index("Hint:")
        assert self.err.split("Hint: ")[1].strip()
        return self.err


Run = Callable[..., Outcome]
Refuse = Callable[..., str]


@pytest.fixture(scope="session")
def small_set(_drawn_photo: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for the shipped sets: two photographs to calibrate on and two to evaluate on, these also blurred."""
    root = tmp_path_factory.mktemp("calibration")
    views = (_drawn_photo, _drawn_photo[::-1], _drawn_photo[:, ::-1], 255 - _drawn_photo)
    tables: dict[str, list[str]] = {"photos": [], "wide": ['sharp_set = "photos"\n']}
    for index, view in enumerate(views):
        split = ("calibration", "evaluation")[index % 2]
        blurred = (np.roll(view, 4, axis=1) // 2 + view // 2).astype(np.uint8)
        for folder, picture in (("photos", view), ("wide", blurred)):
            if folder == "photos" or split == "evaluation":
                path = root / folder / "images" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_rgb(path, np.ascontiguousarray(picture))
                facts = f'file = "images/{index}.png"\nsha256 = "{hash_file(path)}"\nsplit = "{split}"\n'
                tables[folder].append(f"[[image]]\n{facts}")
    for folder, lines in tables.items():
        (root / folder / "set.toml").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="session")
def run(small_set: Path) -> Run:
    """``deblur-deploy`` in this process, on the small photographs: ``run("prune", path, "--keep", 0.5)``."""

    def run_in_process(*arguments: object) -> Outcome:
        out, err, on_terminate = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
        with (
            mock.patch.object(sys, "argv", ["deblur-deploy", *map(str, arguments)]),
            mock.patch("deblur_deploy.data.pairs.shipped", return_value=small_set),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ending,
        ):
            main()
        signal.signal(signal.SIGTERM, on_terminate)
        return Outcome(int(ending.value.code or 0), out.getvalue(), err.getvalue())

    return run_in_process


@pytest.fixture
def refuse(run: Run, tmp_path: Path) -> Refuse:
    """Run a command that must be refused: ``refuse(exit_code, *arguments)`` gives what it printed on stderr."""

    def run_refused(code: int, *arguments: object) -> str:
        before = everything_under(tmp_path)
        takes_runs = arguments[0] not in ("verify", "infer") and "--runs" not in arguments
        outcome = run(*arguments, *(("--runs", tmp_path / "runs") if takes_runs else ()), "--json")
        assert everything_under(tmp_path) == before
        assert outcome.out == ""
        return outcome.refusal(code)

    return run_refused


def everything_under(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content, and every directory, hidden ones too."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="session")
def tiny_weights() -> dict[str, torch.Tensor]:
    """A state_dict of the smallest SRN; its head is not zero, so it changes the picture."""
    torch.manual_seed(7)
    net = SRN(SRNConfig.from_base(8, (1, 1, 1)))
    torch.nn.init.normal_(net.head.weight, std=0.02)
    torch.nn.init.normal_(net.deform.deform.conv_offset.weight, std=0.02)
    return net.state_dict()


@pytest.fixture(scope="session")
def checkpoint_file(tiny_weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights as a training run leaves them."""
    path = tmp_path_factory.mktemp("trained") / "generator.pth"
    torch.save({"params": {f"module.{name}": tensor for name, tensor in tiny_weights.items()}}, path)
    return path


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the chain of artifacts is made. Tests read it only."""
    return tmp_path_factory.mktemp("project") / "runs"


@pytest.fixture(scope="session")
def chain(run: Run, runs: Path, checkpoint_file: Path) -> dict[str, Outcome]:
    """Outcomes by command of the road from a checkpoint to ONNX; no command but the first is told its source."""
    roads = {
        "import": (checkpoint_file,),
        "prune": ("--steps", 1),
        "qat": ("--steps", 1),
        "export-onnx": ("--res", "64x48"),
    }
    return {name: run(name, *options, "--runs", runs, "--json").done() for name, options in roads.items()}


@pytest.fixture(scope="session")
def made(chain: dict[str, Outcome]) -> dict[str, Path]:
    """Directories of the chain's artifacts, by command."""
    return {name: Path(outcome.json["artifact"]) for name, outcome in chain.items()}


@pytest.fixture(scope="session")
def engine(run: Run, runs: Path, chain: dict[str, Outcome]) -> Outcome:
    """Outcome of building an engine from the newest artifact; for tests marked ``rtx``."""
    return run("export-trt", "--runs", runs, "--json").done()


@pytest.fixture
def shipped_generator(run: Run, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny network in the place of the one that is shipped."""
    directory = tmp_path / "models" / "srn-demo"
    run("import", checkpoint_file, "--out", directory).done()
    monkeypatch.setattr("deblur_deploy.core.sources.shipped", lambda folder: tmp_path / folder)
    return directory
