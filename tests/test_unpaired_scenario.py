"""The scenario that trains on blurred pictures and measures on their sharp twins: it goes on, and records the gain."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from deblur_deploy.config import ShakeConfig
from deblur_deploy.core.images import save_rgb
from deblur_deploy.data.pairs import Pair
from deblur_deploy.data.shake import shake
from deblur_deploy.training import train as train_module

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SCENARIO = """
title = "Footage"
about = "Gain."
kind = "unpaired"
target.at_least = -1e9
[parameters]
model = "srn-demo"
[parameters.train.fit]
steps = 2
batch = 1
crop = 32
[parameters.train.unpaired]
blur_base = 4
check_every = 1
"""


@pytest.fixture
def root(tmp_path: Path, photo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Benchmarks with one scenario, and beside them a pair and a photograph."""
    blurred = shake(photo, ShakeConfig(), np.random.default_rng(0)).blurred
    monkeypatch.setattr(train_module, "load_pairs", lambda folder, split: [Pair("one.png", blurred, photo)])
    for kind, image in (("blur", blurred), ("sharp", photo)):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
        save_rgb(tmp_path / "pairs" / kind / "one.png", image)
    (tmp_path / "photos").mkdir()
    save_rgb(tmp_path / "photos" / "drawn.png", np.ascontiguousarray(photo[::-1]))
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "footage.toml").write_text(SCENARIO, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module, work = importlib.import_module("run"), importlib.import_module("unpaired")
    monkeypatch.setattr(work, "RUNS", root / "runs")
    yield lambda *places: module.main(["footage", "--device-dir", "here", *places], root)
    for name in ("run", "unpaired"):
        sys.modules.pop(name, None)


def test_a_stopped_run_goes_on_and_records_the_gain(run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, places = (
        importlib.import_module("unpaired"),
        ["--pairs", str(root / "pairs"), "--photos", str(root / "photos")],
    )
    steps: list[int] = []

    def stop(step: int, of: int, loss: float) -> None:
        steps.append(step)
        if len(steps) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(work, "_tell", stop)
    with pytest.raises(KeyboardInterrupt):
        run(*places)
    assert run(*places) == 0
    assert steps == [1, 2]
    (line,) = (root / "results" / "here" / "footage.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    before, after = record["details"]["before"], record["details"]["after"]
    assert record["figure"] == pytest.approx(after["psnr_db"] - before["psnr_db"], abs=1e-6)
    assert record["figure"] != 0
    assert record["command"] == "python benchmarks/run.py footage --pairs DIR --photos DIR"
    assert record["parameters"]["photos"] == "1 photographs"
    assert [step for step, _ in record["details"]["guard"]["checks"]] == [0, 1, 2]
    assert [row[0] for row in record["details"]["table"]["rows"]] == ["before", "after"]
    assert str(root) not in json.dumps(record)


def test_without_pictures_it_says_what_to_give(run, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 1
    assert "give --pairs and --photos" in capsys.readouterr().err
    assert not (root / "results").exists()
